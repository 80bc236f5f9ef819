# "Python怎样操作消息队列?pika连接RabbitMQ" names the headers exchange without a program; this is one in its style.
import pika

import broker

connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
channel.exchange_declare(exchange='my_headers', exchange_type='headers', durable=True)
msg = 'Hello World!'
channel.basic_publish(exchange='my_headers',
                      routing_key='',
                      body=msg,
                      properties=pika.BasicProperties(
                          headers={'format': 'pdf', 'type': 'report'},
                          delivery_mode=2)
                      )
print('Sent %r' % msg)
connection.close()
