# "pika消息中间件模块", 3.1 publish.py
import pika

import broker

message = 'i am jabbok'
connect = pika.BlockingConnection(broker.parameters())
channel = connect.channel()
channel.exchange_declare(exchange='logs', exchange_type='fanout')
channel.basic_publish(exchange='logs', routing_key='', body=message)
channel.close()
