"""Writes records.json.gz: data records as ZODB writes them, in every pickle
protocol, each with the class and the references that ZODB finds in it.

    python make_fixtures.py                      (needs ZODB)

ZODB itself writes protocol 3. For the others its ObjectWriter is given another
pickler: zodbpickle's for protocols 0 to 3, that of the standard library for all.
"refs" is what ZODB.serialize.referencesf says, in hexadecimal. It cannot read
protocols 4 and 5, nor what bytes are in protocols 0 to 2. Where it fails, it is
given an unpickler of the standard library that knows no class; "by" says which
of them has read the record. "class" is what ZODB.utils.get_pickle_metadata says;
it cannot read protocols 4 and 5 either, and there it is the class of the object
that was written. It is empty where nobody can tell.
"""

import codecs
import datetime
import decimal
import gzip
import io
import json
import os
import pickle
import random
import uuid
import zlib

import persistent.list
import persistent.mapping
import persistent.wref
import ZODB.blob
import ZODB.serialize
import zodbpickle.pickle
from BTrees.IIBTree import IISet
from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from BTrees.OOBTree import OOSet
from persistent import Persistent
from ZODB.tests import PackableStorage
from ZODB.utils import get_pickle_metadata
from ZODB.utils import p64


class Database:

    xrefs = True

    def __init__(self, name):
        self.database_name = name
        self.databases = {name: self}


class Jar:
    """As much of a connection as an ObjectWriter needs."""

    def __init__(self, name, start):
        self.database = Database(name)
        self.last = start
        self.connections = {}

    def db(self):
        return self.database

    def new_oid(self):
        self.last += 1
        return p64(self.last)

    def get_connection(self, name):
        return self.connections[name]

    def _implicitlyAdding(self, oid):
        return False


class Plain(Persistent):

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class WithArguments(Plain):
    """A reference to it is the oid alone."""

    def __getnewargs__(self):
        return ('argument', Plain(), 1)

    def __new__(cls, *args, **attributes):
        return super().__new__(cls)


class NotPersistent:

    def __init__(self, *args):
        self.args = args


class Reduced(NotPersistent):

    def __reduce__(self):
        return Reduced, self.args, {'args': self.args}, iter(self.args)

    def append(self, x):
        pass


class Anything:
    """What a pickle names, whatever it is."""

    def __new__(cls, *args, **kw):
        return object.__new__(cls)

    def __init__(self, *args, **kw):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    add = append


class Walker(pickle.Unpickler):

    def __init__(self, find_global, load_persistent, file):
        super().__init__(file, encoding='latin-1')
        self.persistent_load = load_persistent

    def find_class(self, module, name):
        if (module, name) == ('_codecs', 'encode'):
            return codecs.encode
        return Anything

    noload = pickle.Unpickler.load


class StandardPickler(pickle.Pickler):

    def __init__(self, persistent_id, file, protocol):
        super().__init__(file, protocol)
        self.persistent_id = persistent_id


zodb_pickler = ZODB.serialize.PersistentPickler
zodb_unpickler = ZODB.serialize.PersistentUnpickler

picklers = [('zodbpickle', zodb_pickler, protocol) for protocol in range(4)]
picklers += [('pickle', StandardPickler, protocol) for protocol in range(6)]

fixtures = []


def add(name, record, known_class=''):
    pickles = record
    if record[:2] == b'.z':
        pickles = zlib.decompress(record[2:])
    ZODB.serialize.PersistentUnpickler = zodb_unpickler
    try:
        by, refs = 'zodbpickle', ZODB.serialize.referencesf(pickles)
    except (AssertionError, UnicodeDecodeError, ValueError):
        ZODB.serialize.PersistentUnpickler = Walker
        by, refs = 'pickle', ZODB.serialize.referencesf(pickles)
    module, cls = get_pickle_metadata(pickles)
    fixtures.append({'name': name, 'record': record.hex(), 'by': by,
                     'class': f'{module}.{cls}' if cls else known_class,
                     'refs': [oid.hex() for oid in refs]})


def add_in_every_protocol(name, obj, jar, only=picklers):
    for module, pickler, protocol in only:
        ZODB.serialize.PersistentPickler = pickler
        ZODB.serialize._protocol = protocol
        writer = ZODB.serialize.ObjectWriter(obj)
        record = writer.serialize(obj)
        if protocol == 0 and b'P' in record and b'\\x00\\x00' in record:
            continue  # its references are the repr of a tuple
        add(f'{name}, {module} {protocol}', record,
            f'{type(obj).__module__}.{type(obj).__name__}')


jar = Jar('main', 0x7f)
other = Jar('other', 0xabcdef0123)
for j in jar, other:
    j.database.databases = {'main': jar.database, 'other': other.database}
    j.connections = {'main': jar, 'other': other}


def new(obj, jar=jar):
    obj._p_jar = jar
    obj._p_oid = jar.new_oid()
    return obj


a, b, c, d = (new(Plain(n=n)) for n in range(4))
args = new(WithArguments())
foreign = new(Plain(), other)
foreign_args = new(WithArguments(), other)
shared = [a, ('x', b)]
recursive = []
recursive.append((recursive, a, {'self': recursive}))

states = {
    'nothing': {},
    'one': {'a': a},
    'some': {'a': a, 'again': a, 'b': b, 'list': [c, d, [a, [b]]]},
    'no class in the reference': {'a': args, 'b': [args, a, args]},
    'containers': {
        'list': [a, 1, 'x'], 'tuples': ((), (b,), (1, c), (1, 2, d),
                                        (1, 2, 3, a), tuple(range(40))),
        'dict': {b: c, 'k': {'k': d}, (a, 1): None},
        'set': {1, 2, (3, 4)}, 'frozen': frozenset([5, (6, 7)]),
        'set of one': {a}, 'frozen set of one': frozenset([b])},
    'scalars': {
        'ints': [0, -1, 255, 256, 65535, 65536, -2**31, 2**31, 2**63, 2**100,
                 -2**2039, 3**1500],
        'floats': [0.0, -1.5, float('inf')], 'bools': [True, False, None],
        'complex': 1j, 'decimal': decimal.Decimal('1.5'),
        'uuid': uuid.UUID(int=7), 'time': datetime.datetime(2026, 1, 2, 3, 4),
        'range': range(3), 'a': a},
    'strings': {
        'str': ['', 'plain', 'caf\xe9', '\u20ac', '\U0001f600', 'a\\b\n\tc',
                "q'\"", '\udc80', 'y' * 300],
        'bytes': [b'', b'plain', bytes(range(256)), b'z' * 300],
        'array': bytearray(b'a' * 8), 'long array': bytearray(b'Q.' * 200),
        'long': 'x' * 70000, 'a': a},
    'bytes like oids': {'x': p64(1), 'y': [(p64(2), Plain)], 'z': '12345678',
                        'q': b'Q' * 20, 'a': a, 'raw': a._p_oid},
    'weak': {'w': persistent.wref.WeakRef(a), 'v': persistent.wref.WeakRef(b),
             'strong': a, 'again': persistent.wref.WeakRef(a),
             'keys': persistent.wref.PersistentWeakKeyDictionary([(c, d)])},
    'another database': {'m': foreign, 'n': foreign_args, 'a': a,
                         'w': persistent.wref.WeakRef(foreign), 'b': b},
    'shared': {'x': shared, 'y': [shared, shared], 'z': (shared,)},
    'recursive': {'r': recursive, 'b': b},
    'instances': {'x': NotPersistent(a, b), 'y': Reduced(c, 'x', d),
                  'class': Plain, 'function': len, 'codec': (codecs.encode, 'a')},
    'many': {'list': [new(Plain()) for _ in range(70)] + [a, b, c]},
    'a thousand': {'list': [a] + [None] * 1200 + [b],
                   'dict': {n: 1 for n in range(1001)} | {'c': c}},
    'deep': {'d': None},
}
deep = a
for _ in range(100):
    deep = [(deep,)]
states['deep']['d'] = deep

for name, state in states.items():
    add_in_every_protocol(name, new(Plain(**state)), jar)

tree = OOBTree({f'key{n:04}': new(Plain()) for n in range(100)})
new(tree)
bucket = tree._firstbucket
while bucket is not None:
    new(bucket)
    bucket = bucket._next
small = OOBTree({1: a, 2: (b, c)})
for name, obj in {
    'OOBTree': tree, 'OOBucket': tree._firstbucket,
    'OOBTree without a bucket of its own': new(small),
    'OOSet': new(OOSet(['x', 'y'])),
    'LOBTree': new(LOBTree({2**40: a})),
    'IISet': new(IISet([1, 2, 3])),
    'PersistentMapping':
        new(persistent.mapping.PersistentMapping({'a': a, 1: [b]})),
    'PersistentList': new(persistent.list.PersistentList([a, (b, c), a])),
    'Blob': new(ZODB.blob.Blob()),
    'arguments that refer': new(WithArguments(c=c)),
}.items():
    add_in_every_protocol(name, obj, jar)


# The packing tests of ZODB write references of their own form.
root = PackableStorage.Root()
root.x = PackableStorage.Object(p64(7))
root.y = [root.x, PackableStorage.Object(p64(8))]
add('PackableStorage', PackableStorage.dumps(root))
add('PackableStorage, no references', PackableStorage.pdumps([1, 2]))


def raw(ids, protocol, pickler=zodb_pickler):
    """A record whose references are these, taken as they are."""
    objects = [NotPersistent() for _ in ids]
    by_object = {id(o): i for o, i in zip(objects, ids)}
    f = io.BytesIO()
    p = pickler(lambda o: by_object.get(id(o)), f, protocol)
    p.dump(Plain)
    p.dump({'objects': objects})
    return f.getvalue()


# Forms of ids that ZODB wrote once or does not write, and ids that are shared.
same = (p64(0x51), Plain)
forms = {
    'the same tuple twice': [same, same, p64(0x52), same],
    'the same list twice': [['w', (p64(1),)]] * 2 + [p64(0x53)],
    'old weak form': [[p64(1)], p64(2)],
    'list forms': [['m', ('other', p64(1), Plain)], ['n', ('other', p64(2))],
                   ['w', (p64(3), 'other')], ['w', (p64(4),)], [], ['x']],
    'text of ASCII': ['\0\0\0\0\0\0\0\x41', ('\0\0\0\0\0\0\0\x42', Plain)],
    'a tuple of one, of three': [(p64(5),), (p64(6), Plain, 7)],
    'class as a pair of names': [(p64(9), ('module', 'name'))],
}
for name, ids in forms.items():
    for module, pickler, protocol in picklers:
        if protocol > 0:
            add(f'{name}, {module} {protocol}', raw(ids, protocol, pickler),
                '__main__.Plain')

# What Python 2 wrote, with an oid that is ASCII: referencesf reads no other.
oid = b'\0\0\0\0\0\0\x12\x34'
for name, record in {
    'cPickle 1': b'(cm\nC\nq\x01Ntq\x02.}q\x03U\x01aq\x04(U\x08' + oid
                 + b'q\x05cm\nC\nq\x06tq\x07Qs.',
    'pickle 2': b'\x80\x02cm\nC\nq\x00.\x80\x02}q\x01(U\x01aq\x02U\x08' + oid
                + b'q\x03h\x00\x86q\x04QU\x01bq\x05h\x03Qu.',
    'a class as names and arguments': b'\x80\x02U\x01mU\x01C\x86)\x86.N.',
    'a class as names alone': b'U\x01mU\x01C\x86.N.',
    'a class as bare text': b'V\\u006dod\nS"C"\n\x86N\x86.N.',
    'a class as names, 1': b'((U\x01mq\x01U\x01Cq\x02tq\x03Ntq\x04.}q\x05U'
                           b'\x01aq\x06U\x08' + oid + b'q\x07Qs.',
    'BINSTRING': b'cm\nC\n.T\x08\0\0\0' + oid + b'Q.',
    'STRING': b'cm\nC\n.S\'\\x00\\x00\\x00\\x00\\x00\\x00\\n"\'\nQ.',
    'UNICODE': b'cm\nC\n.V\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000ab\nQ.',
    'PERSID': b'cm\nC\np0\n.(dp1\nS\'a\'\np2\nPABCDEFGH\nsg2\ng1\ns.',
    'INST and OBJ': b'(U\x01xim\nC\n.(cm\nC\nU\x08' + oid + b'Qo}U\x01a('
                    b'U\x08ABCDEFGHcm\nC\ntQsb.',
    'a persistent class': b'U\x08' + oid + b'Q.(U\x08ABCDEFGHh\x00tQ.'
                          .replace(b'h\x00', b'U\x08abcdefghQ'),
    'POP, POP_MARK, DUP': b'N.(0U\x08' + oid + b'2Q0Q(NN1.',
    'EXT': b'\x82\x01.\x83\x01\x02\x84\x01\x02\x03\x04\x86.',
}.items():
    add('Python 2, ' + name, record)

for n, fixture in enumerate(fixtures[:]):
    if n % 9 == 0:
        record = bytes.fromhex(fixture['record'])
        add('compressed, ' + fixture['name'], b'.z' + zlib.compress(record),
            fixture['class'])

# Anything at all.
rnd = random.Random(20261125)
objects = [new(Plain()) for _ in range(60)]
objects += [new(WithArguments()) for _ in range(20)]


def anything(depth, known):
    leaf = depth > 4 or rnd.random() < .3
    kind = rnd.randrange(9) if leaf else rnd.randrange(9, 18)
    if kind < 3:
        return rnd.choice(objects)
    if kind == 3:
        return persistent.wref.WeakRef(rnd.choice(objects))
    if kind == 4:
        return rnd.choice([foreign, foreign_args])
    if kind == 5:
        return rnd.choice([None, True, 1.5, rnd.getrandbits(rnd.choice([7, 31, 70]))])
    if kind == 6:
        return rnd.choice(['', 'key', '12345678', 'caf\xe9', 'Q.' * 30])
    if kind == 7:
        return rnd.choice([b'', p64(rnd.getrandbits(20)), b'Q.' * 30])
    if kind == 8:
        return rnd.choice(known) if known else None
    size = rnd.choice([0, 1, 1, 2, 3, 4])
    parts = [anything(depth + 1, known) for _ in range(size)]
    if kind < 12:
        made = parts
    elif kind < 14:
        made = tuple(parts)
    elif kind < 16:
        made = {rnd.choice([n, str(n), (n, b'k')]): p
                for n, p in enumerate(parts)}
    elif kind == 16:
        made = NotPersistent(*parts)
    else:
        made = Reduced(*parts)
    known.append(made)
    return made


for n in range(300):
    obj = Plain(**{f'a{i}': anything(0, []) for i in range(rnd.randrange(1, 4))})
    new(obj)
    usable = [p for p in picklers if p[2] > 2 or n % 4 == p[2] > 0]
    add_in_every_protocol(f'random {n}', obj, jar, [rnd.choice(usable)])

path = os.path.join(os.path.dirname(__file__), 'records.json.gz')
with open(path, 'wb') as f:
    f.write(gzip.compress(json.dumps(fixtures, indent=0).encode(), mtime=0))
for by in 'zodbpickle', 'pickle':
    print(sum(fixture['by'] == by for fixture in fixtures), 'read by', by)
