# "RabbitMQ", 交换机模式, 订阅模式, 生产者
import pika

import broker

connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
channel.exchange_declare(exchange='hello2',
                         exchange_type='fanout',
                         durable=True)
msg = 'Hello World!'
channel.basic_publish(exchange='hello2',
                      routing_key='',
                      body=msg,
                      properties=pika.BasicProperties(
                          delivery_mode=2)
                      )
print('Sent %r' % msg)
connection.close()
