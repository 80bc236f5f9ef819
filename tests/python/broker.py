"""What the programs here share in place of the addresses and endless loops of the documents: the broker comes from
AMQP_URL, --count N ends a program after N messages, and PREFIX is put before the names of queues and exchanges where the
programs share a broker with others."""
import functools
import inspect
import os
import sys

import pika
from pika.adapters.blocking_connection import BlockingChannel

_prefix = os.environ.get('PREFIX', '')


def _name(name):
    """What a queue or an exchange of this name is called here. The broker's own names stay as they are."""
    if not name or name.startswith(('amq.', _prefix)):
        return name
    return _prefix + name


def _with_names(method):
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        for argument in ('queue', 'exchange'):
            if argument in call.arguments:
                call.arguments[argument] = _name(call.arguments[argument])
        if call.arguments.get('exchange') == '' and 'routing_key' in call.arguments:
            call.arguments['routing_key'] = _name(call.arguments['routing_key'])
        return method(*call.args, **call.kwargs)
    return wrapper


if _prefix:
    for _method in ('queue_declare', 'exchange_declare', 'queue_bind', 'basic_publish', 'basic_consume', 'basic_get'):
        setattr(BlockingChannel, _method, _with_names(getattr(BlockingChannel, _method)))


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
