# "RabbitMQ", 简单模式, 生产者
import pika

import broker

if __name__ == '__main__':
    connection = pika.BlockingConnection(broker.parameters())
    channel = connection.channel()
    channel.queue_declare(queue='hello1', durable=True)
    msg = 'Hello World!'
    channel.basic_publish(exchange='',
                          routing_key='hello1',
                          body=msg,
                          properties=pika.BasicProperties(
                              delivery_mode=2)
                          )
    print('Sent %r' % msg)
