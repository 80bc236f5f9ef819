# "RabbitMQ", RPC, 服务端
import pika

import broker


def func(msg):
    return 'return ' + msg.decode()


def on_request(ch, method, props, body):
    print('Request content %r' % body)
    response = func(body)

    ch.basic_publish(exchange='',
                     routing_key=props.reply_to,
                     body=response,
                     properties=pika.BasicProperties(
                         correlation_id=props.correlation_id))


if __name__ == '__main__':
    connection = pika.BlockingConnection(broker.parameters())
    channel = connection.channel()

    channel.queue_declare(queue='rpc_queue')
    channel.basic_consume(queue="rpc_queue",
                          auto_ack=True,
                          on_message_callback=broker.counted(on_request))
    print("Waiting RPC requests")
    channel.start_consuming()
