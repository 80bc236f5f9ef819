# "RabbitMQ", 交换机模式, 订阅模式, 消费者
import pika

import broker


def callback(ch, method, properties, body):
    print('%r:%r' % (method.routing_key, body))
    ch.basic_ack(delivery_tag=method.delivery_tag)


connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
channel.exchange_declare(exchange='hello2',
                         exchange_type='fanout',
                         durable=True)
result = channel.queue_declare("", durable=True, exclusive=True)
queue_name = result.method.queue
channel.queue_bind(exchange='hello2', queue=queue_name)
channel.basic_consume(queue=queue_name,
                      auto_ack=False,
                      on_message_callback=broker.counted(callback))
print('Waiting for messages. To exit press CTRL+C')
channel.start_consuming()
