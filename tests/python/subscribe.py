# "pika消息中间件模块", 3.2 subscribe.py
import pika

import broker

conncetion = pika.BlockingConnection(broker.parameters())
channel = conncetion.channel()
channel.exchange_declare(exchange='logs', exchange_type='fanout')
result = channel.queue_declare('', exclusive=True)
queue_name = result.method.queue
channel.queue_bind(exchange='logs', queue=queue_name)


def callback(ch, method, properties, body):
    print("Received %r" % body)


channel.basic_consume(queue_name, broker.counted(callback), auto_ack=True)

print('waiting for maeeage')
channel.start_consuming()
