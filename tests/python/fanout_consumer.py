# "Python使用pika实现RabbitMQ消息收发", 广播模式, 消费者
import pika

import broker


def callback(ch, method, properties, body):
    ch.basic_ack(delivery_tag=method.delivery_tag)
    print(body)


def consumer_fanout():
    connection = pika.BlockingConnection(broker.parameters())
    channel = connection.channel()
    args = {"x-message-ttl": 100*1000}
    channel.exchange_declare(exchange='aoto_test', exchange_type='fanout', durable=False, arguments=args)
    queuename = "queue_aoto_1"
    result = channel.queue_declare(queue=queuename)
    channel.queue_bind(exchange='aoto_test', queue=queuename)
    channel.basic_consume(result.method.queue, broker.counted(callback), False)
    channel.start_consuming()


if __name__ == "__main__":
    consumer_fanout()
