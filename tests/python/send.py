# "pika消息中间件模块", 2.1 send.py, with --durable as in 2.6
import sys

import pika

import broker

durable = '--durable' in sys.argv
conncetion = pika.BlockingConnection(broker.parameters())
channel = conncetion.channel()
channel.queue_declare('hello', durable=durable)
if durable:
    channel.basic_publish(exchange='', routing_key='hello', body='Hello World',
                          properties=pika.BasicProperties(delivery_mode=2)
                          )
else:
    channel.basic_publish(exchange='', routing_key='hello', body='Hello World')
conncetion.close()
