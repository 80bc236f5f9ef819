# "RabbitMQ", 交换机模式, 通配符, 生产者
import pika

import broker

connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
exchange_name = 'log2'
channel.exchange_declare(exchange=exchange_name,
                         exchange_type='topic',
                         durable=True)
msg = 'Hello World!'
channel.basic_publish(exchange=exchange_name,
                      routing_key='europe.weather',
                      body=msg,
                      properties=pika.BasicProperties(
                          delivery_mode=2)
                      )
print('Sent %r' % msg)
connection.close()
