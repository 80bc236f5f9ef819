# "Python怎样操作消息队列?pika连接RabbitMQ", 生产者
import time

import pika

import broker

connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
channel.queue_declare(queue='my_queue', durable=True)

message_count = 0
while message_count < 5:
    message = f"Hello World! Message number {message_count}"
    channel.basic_publish(
        exchange='',
        routing_key='my_queue',
        body=message,
        properties=pika.BasicProperties(
            delivery_mode=2,
        )
    )
    print(f" [x] Sent '{message}'")
    message_count += 1
    time.sleep(float(broker.option('--interval', 1)))

connection.close()
