# "Python 操作 RabbitMQ 消息队列", producer.py (Python 2 there; digits that the page lost are put back)
import sys

import pika

import broker

con = pika.BlockingConnection(broker.parameters())
cha = con.channel()
result = cha.queue_declare(queue='anheng', durable=True, exclusive=False)
cha.exchange_declare(durable=False,
                     exchange='yanfa',
                     exchange_type='direct',)
cha.queue_bind(exchange='yanfa',
               queue=result.method.queue,
               routing_key='',)
cha.basic_qos(prefetch_count=1)
message = ' '.join(sys.argv[1:])
cha.basic_publish(exchange='',
                  routing_key='anheng',
                  body=message,
                  properties=pika.BasicProperties(
                      delivery_mode=2,
                  ))
print('[x] Sent %r' % (message,))
con.close()
