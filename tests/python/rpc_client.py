# "RabbitMQ", RPC, 客户端
import time
import uuid

import pika

import broker


class Client:
    @staticmethod
    def connect():
        connection = pika.BlockingConnection(broker.parameters())
        return connection

    def __init__(self):
        self.response = None
        self.corr_id = ''
        self.connection = self.connect()
        self.channel = self.connection.channel()
        result = self.channel.queue_declare('', exclusive=True)
        self.callback_queue = result.method.queue
        self.channel.basic_consume(queue=self.callback_queue,
                                   auto_ack=False,
                                   on_message_callback=self.on_response)

    def on_response(self, ch, method, props, body):
        if self.corr_id == props.correlation_id:
            self.response = body
            ch.basic_ack(delivery_tag=method.delivery_tag)

    def call(self, msg):
        self.corr_id = str(uuid.uuid4())
        self.channel.queue_declare(queue='rpc_queue')
        self.channel.basic_publish(exchange='',
                                   routing_key='rpc_queue',
                                   body=msg,
                                   properties=pika.BasicProperties(
                                       reply_to=self.callback_queue,
                                       correlation_id=self.corr_id,))

        while self.response is None:
            self.connection.process_data_events()
            print("listen...")
            time.sleep(1)
        return self.response


if __name__ == '__main__':
    client_rpc = Client()
    response = client_rpc.call('ok')
    print("Got %r" % response)
