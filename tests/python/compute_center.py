# "Python 操作 RabbitMQ 消息队列", 相互关联编号correlation id, center.py (Python 2 there)
#
# pika does not let threads share a connection. The original does it all the same and fails now and then, so a lock is
# added here.
import threading
import uuid

import pika

import broker


class MyThread(threading.Thread):
    def __init__(self, func, num):
        super(MyThread, self).__init__()
        self.func = func
        self.num = num

    def run(self):
        print(" [x] Requesting increase(%d)\n" % self.num, end='')
        response = self.func(self.num)
        print(" [.] increase(%d)=%d\n" % (self.num, response), end='')


class Center(object):
    def __init__(self):
        self.connection = pika.BlockingConnection(broker.parameters())
        self.channel = self.connection.channel()
        result = self.channel.queue_declare('', exclusive=True)
        self.callback_queue = result.method.queue
        self.channel.basic_consume(on_message_callback=self.on_response,
                                   auto_ack=True,
                                   queue=self.callback_queue)
        self.response = {}
        self.lock = threading.Lock()

    def on_response(self, ch, method, props, body):
        self.response[props.correlation_id] = body

    def request(self, n):
        corr_id = str(uuid.uuid4())
        self.response[corr_id] = None
        with self.lock:
            self.channel.basic_publish(exchange='',
                                       routing_key='compute_queue',
                                       properties=pika.BasicProperties(
                                           reply_to=self.callback_queue,
                                           correlation_id=corr_id,
                                       ),
                                       body=str(n))
        while self.response[corr_id] is None:
            with self.lock:
                self.connection.process_data_events()
        return int(self.response[corr_id])


center = Center()
nums = [10, 20, 30, 40, 50]
threads = []
for num in nums:
    threads.append(MyThread(center.request, num))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
