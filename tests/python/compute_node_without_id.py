# "Python 操作 RabbitMQ 消息队列", 远程结果返回, compute.py (Python 2 there)
import pika

import broker

connection = pika.BlockingConnection(broker.parameters())
channel = connection.channel()
channel.queue_declare(queue='compute_queue')
print(' [*] Waiting for n')


def increase(n):
    return n + 1


def request(ch, method, properties, body):
    print(" [.] increase(%s)" % (body.decode(),))

    response = increase(int(body))

    ch.basic_publish(exchange='',
                     routing_key=properties.reply_to,
                     body=str(response))
    ch.basic_ack(delivery_tag=method.delivery_tag)


channel.basic_qos(prefetch_count=1)
channel.basic_consume('compute_queue', broker.counted(request))

channel.start_consuming()
