# "RabbitMQ", 简单模式, 消费者
import pika

import broker


def callback(ch, method, properties, body):
    print('%r:%r' % (method.routing_key, body))
    ch.basic_ack(delivery_tag=method.delivery_tag)


if __name__ == '__main__':
    connection = pika.BlockingConnection(broker.parameters())
    channel = connection.channel()
    channel.queue_declare(queue='hello1', durable=True)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue='hello1',
                          auto_ack=False,
                          on_message_callback=broker.counted(callback))
    print('Waiting for messages. To exit press CTRL+C')
    channel.start_consuming()
