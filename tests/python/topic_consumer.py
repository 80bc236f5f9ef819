# "RabbitMQ", 交换机模式, 通配符, 消费者
import pika

import broker


def callback(ch, method, properties, body):
    print('%r:%r' % (method.routing_key, body))
    ch.basic_ack(delivery_tag=method.delivery_tag)


connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
exchange_name = 'log2'
channel.exchange_declare(exchange=exchange_name,
                         exchange_type='topic',
                         durable=True)
result = channel.queue_declare("", durable=True, exclusive=True)
queue_name = result.method.queue
channel.queue_bind(queue=queue_name, exchange=exchange_name, routing_key='europe.#')

channel.basic_consume(queue=queue_name,
                      auto_ack=False,
                      on_message_callback=broker.counted(callback))
print('Waiting for messages. To exit press CTRL+C')
channel.start_consuming()
