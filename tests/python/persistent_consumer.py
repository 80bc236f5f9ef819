# "Python怎样操作消息队列?pika连接RabbitMQ", 消费者
import time

import pika

import broker

connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
channel.queue_declare(queue='my_queue', durable=True)

print(' [*] Waiting for messages. To exit press CTRL+C')


def callback(ch, method, properties, body):
    print(f" [x] Received '{body.decode()}'")
    time.sleep(body.count(b'.'))
    ch.basic_ack(delivery_tag=method.delivery_tag)
    print(" [x] Done")


channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue='my_queue', on_message_callback=broker.counted(callback), auto_ack=False)
channel.start_consuming()
