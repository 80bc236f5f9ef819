# "pika消息中间件模块", 2.2 receive.py, with --durable as in 2.6
import sys

import pika

import broker

conncetion = pika.BlockingConnection(broker.parameters())
channel = conncetion.channel()
channel.queue_declare('hello', durable='--durable' in sys.argv)


def callback(ch, method, properties, body):
    print("Received %r" % body)


channel.basic_consume('hello', broker.counted(callback), auto_ack=True)

print('waiting for maeeage')
channel.start_consuming()
