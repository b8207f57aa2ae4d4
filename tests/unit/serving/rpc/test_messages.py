"""Our messages against those of Triton's client: what both have must be the same on the wire."""

from importlib import resources

import tritonclient.grpc.model_config_pb2 as triton_config
import tritonclient.grpc.service_pb2 as triton_service
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor

from edge_agent.serving.rpc import messages, questions, service


def ours():
    content = resources.files(messages.__package__).joinpath("messages.binpb").read_bytes()
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(content).file
    return file


def wire(message, prefix=""):
    """Each field of a message and of those inside it: name to number, type, and what it is made of."""
    found = {}
    for field in message.fields:
        is_repeated = getattr(field, "is_repeated", None)
        made_of = field.message_type or field.enum_type
        oneof = field.containing_oneof and field.containing_oneof.name
        found[f"{prefix}{message.name}.{field.name}"] = (
            field.number,
            field.type,
            is_repeated,
            made_of and made_of.full_name,
            oneof,
            field.type == FieldDescriptor.TYPE_ENUM and [(v.name, v.number) for v in field.enum_type.values],
        )
    for nested in message.nested_types:
        found |= wire(nested, f"{prefix}{message.name}.")
    return found


def test_every_message_is_wire_compatible_with_tritons():
    theirs = {
        **triton_service.DESCRIPTOR.message_types_by_name,
        **triton_config.DESCRIPTOR.message_types_by_name,
    }
    names = [message.name for message in ours().message_type]
    assert len(names) > 40
    for name in names:
        known = wire(theirs[name])
        for field, form in wire(getattr(messages, name).DESCRIPTOR).items():
            assert known[field] == form, field


def test_every_call_of_tritons_service_is_answered():
    (described,) = triton_service.DESCRIPTOR.services_by_name.values()
    assert described.full_name == service.NAME
    handled = {"ModelInfer", "ModelStreamInfer", *questions.ASKED, *questions.UNSERVED}
    assert handled == {method.name for method in described.methods}


def test_inference_has_all_fields_of_tritons():
    for name in ("ModelInferRequest", "ModelInferResponse", "ModelStreamInferResponse"):
        theirs = triton_service.DESCRIPTOR.message_types_by_name[name]
        assert wire(theirs) == wire(getattr(messages, name).DESCRIPTOR)
