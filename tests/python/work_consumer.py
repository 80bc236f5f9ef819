# "Python 操作 RabbitMQ 消息队列", consumer.py (Python 2 there)
import pika

import broker

con = pika.BlockingConnection(broker.parameters())
cha = con.channel()
result = cha.queue_declare(queue='anheng', durable=True)
cha.exchange_declare(durable=False,
                     exchange='yanfa',
                     exchange_type='direct',)
cha.queue_bind(exchange='yanfa',
               queue=result.method.queue,
               routing_key='',)
cha.basic_qos(prefetch_count=1)
print(' [*] Waiting for messages. To exit press CTRL+C')


def callback(ch, method, properties, body):
    print(" [x] Received %r" % (body,))
    ch.basic_ack(delivery_tag=method.delivery_tag)


cha.basic_consume(queue='anheng', on_message_callback=broker.counted(callback), auto_ack=False)
cha.start_consuming()
