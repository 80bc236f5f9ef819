# "Python使用pika实现RabbitMQ消息收发", 广播模式, 生产者
import datetime
import json

import pika

import broker


def get_message():
    for i in range(10):
        message = json.dumps({'id': "10000%s" % i, "amount": 100 * i, "name": "aoto",
                              "createtime": str(datetime.datetime.now())})
        producter_fanout(message)


def producter_fanout(messages):
    connection = pika.BlockingConnection(broker.parameters())
    channel = connection.channel()
    channel.exchange_declare(exchange='aoto_test', exchange_type='fanout')
    channel.basic_publish(exchange='aoto_test', routing_key='', body=messages,
                          properties=pika.BasicProperties(delivery_mode=1))
    connection.close()


if __name__ == "__main__":
    get_message()
