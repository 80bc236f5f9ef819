# "Python使用pika实现RabbitMQ消息收发", Queue模式, 消费者 (its unused imports of numpy and cv2 are left out)
import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic
from pika.spec import BasicProperties

import broker


def callback(ch: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes):
    print('Receive: {}'.format(str(body, encoding='utf-8')))


connection = pika.BlockingConnection(broker.parameters(heartbeat=0))
args = {"x-message-ttl": 100*1000}
queue_name = 'test'

channel = connection.channel()
channel.queue_declare(queue=queue_name, auto_delete=True, arguments=args)
channel.basic_consume(on_message_callback=broker.counted(callback), queue=queue_name, auto_ack=True)
channel.start_consuming()
