"""The messages of our services, as protobuf classes.

They live in a pool of their own: the process may hold another library's classes of the same names, such as those of
`tritonclient`, and protobuf refuses two in one pool. `services.binpb` is what protoc makes of the `.proto` files here;
`python -m tests.gateway.grpc.test_messages` makes it again.
"""

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()
FILES = FileDescriptorSet.FromString(files("gateway.grpc").joinpath("services.binpb").read_bytes()).file
for file in FILES:
    POOL.Add(file)


def message(name: str) -> Any:
    r"""Return the class of a message by its full name.

    >>> message("inference.ServerLiveResponse")(live=True).SerializeToString()
    b'\x08\x01'
    """
    return GetMessageClass(POOL.FindMessageTypeByName(name))
