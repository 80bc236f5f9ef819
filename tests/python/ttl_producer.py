# "Python使用pika实现RabbitMQ消息收发", Queue模式, 生产者
import json
import time

import pika

import broker

# heartbeat 0: none
connection = pika.BlockingConnection(broker.parameters(heartbeat=0))
args = {"x-message-ttl": 100*1000}
channel = connection.channel()
queue_name = 'test'
channel.queue_declare(queue=queue_name, arguments=args)

while True:
    msg = {
        "msg": f"hello world {time.strftime('%Y-%m-%d %H:%M:%S',time.localtime())}"
    }
    channel.basic_publish(exchange='', routing_key=queue_name, body=json.dumps(msg))
    print(f" [x] Sent {json.dumps(msg)}")
    if broker.last():
        break
    time.sleep(float(broker.option('--interval', 1.5)))
connection.close()
