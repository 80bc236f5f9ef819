# "Python怎样操作消息队列?pika连接RabbitMQ" names the headers exchange without a program; this is one in its style.
import pika

import broker


def callback(ch, method, properties, body):
    print('%r:%r' % (properties.headers['format'], body))
    ch.basic_ack(delivery_tag=method.delivery_tag)


connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
channel.exchange_declare(exchange='my_headers', exchange_type='headers', durable=True)
result = channel.queue_declare("", durable=True, exclusive=True)
queue_name = result.method.queue
channel.queue_bind(exchange='my_headers', queue=queue_name, routing_key='',
                   arguments={'x-match': 'all', 'format': 'pdf', 'type': 'report'})
channel.basic_consume(queue=queue_name,
                      auto_ack=False,
                      on_message_callback=broker.counted(callback))
print('Waiting for messages. To exit press CTRL+C')
channel.start_consuming()
