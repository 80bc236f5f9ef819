"""What the programs here share in place of the addresses and endless loops of the documents: the broker comes from
AMQP_URL, and --count N ends a program after N messages."""
import os
import sys

import pika


def parameters(**changes):
    result = pika.URLParameters(os.environ['AMQP_URL'])
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def option(name, default=None):
    if name in sys.argv:
        return sys.argv[sys.argv.index(name) + 1]
    return default


_left = int(option('--count', 0))


def last():
    """Counts one message, and says whether it was the last."""
    global _left
    _left -= 1
    return _left == 0


def counted(callback):
    """The callback, but ending start_consuming after --count messages."""
    def wrapper(ch, method, properties, body):
        callback(ch, method, properties, body)
        if last():
            ch.stop_consuming()
    return wrapper
