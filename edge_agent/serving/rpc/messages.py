"""The classes of the messages in messages.proto; messages.pyi says what they are.

They are made of the file's descriptors, in a pool of their own: protobuf's default pool holds each name once in
a process, and Triton's client registers the same names there; and descriptors, other than generated code, are
read by every version of protobuf. `scripts/generate-protos` writes both files.
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message


def _classes() -> dict[str, type[Message]]:
    content = resources.files(__package__).joinpath("messages.binpb").read_bytes()
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(content).file
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    known = pool.FindFileByName(file.name).message_types_by_name
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in known.items()}


globals().update(_classes())
