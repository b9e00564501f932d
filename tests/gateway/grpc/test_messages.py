"""The messages are those of the `.proto` files, and those are the published ones.

    python -m tests.gateway.grpc.test_messages

makes `gateway/grpc/services.binpb` again.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2

from gateway.grpc.messages import FILES, POOL

FOLDER = Path(__file__).parents[3] / "gateway" / "grpc"
MADE = FOLDER / "services.binpb"
PUBLISHED = {
    "inference": [service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR],
    "grpc.health.v1": [health_pb2.DESCRIPTOR],
    "grpc.reflection.v1": [reflection_pb2.DESCRIPTOR],
}


def compiled() -> bytes:
    """Return what protoc makes of the `.proto` files."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "services.binpb"
        names = sorted(path.name for path in FOLDER.glob("*.proto"))
        assert protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={result}", *names]) == 0
        return result.read_bytes()


def test_the_descriptors_are_made_of_the_proto_files() -> None:
    """`services.binpb` says what protoc says, so that the text is what is served."""
    assert FileDescriptorSet.FromString(MADE.read_bytes()) == FileDescriptorSet.FromString(compiled())


def fields(message: Any) -> dict[str, tuple[Any, ...]]:
    """Describe the fields of a message as far as the wire knows them."""
    return {
        one.name: (one.number, one.type, one.is_repeated, one.containing_oneof and one.containing_oneof.name)
        for one in message.fields
    }


def messages(found: Any) -> dict[str, Any]:
    """List the messages of a file or a message, nested ones too, by their names within the package."""
    nested = found.message_types_by_name if hasattr(found, "message_types_by_name") else found.nested_types_by_name
    listed: dict[str, Any] = {}
    for name, one in nested.items():
        listed |= {name: one} | {f"{name}.{inner}": deeper for inner, deeper in messages(one).items()}
    return listed


@pytest.mark.parametrize("package", PUBLISHED)
def test_names_and_numbers_are_the_published_ones(package: str) -> None:
    """Every field, enum value and method of ours is in the files that other people's clients are made of."""
    theirs: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    for file in PUBLISHED[package]:
        theirs |= messages(file)
        methods |= {name: one.methods_by_name for name, one in file.services_by_name.items()}
    [ours] = [POOL.FindFileByName(file.name) for file in FILES if file.package == package]
    for name, one in messages(ours).items():
        if name.startswith("HealthList"):
            continue  # Younger than the oldest client that the tests take.
        published = fields(theirs[name])
        assert {key: published.get(key) for key in fields(one)} == fields(one), name
    for name, enum in ours.enum_types_by_name.items():
        known = next(file.enum_types_by_name[name] for file in PUBLISHED[package] if name in file.enum_types_by_name)
        assert {value.name: value.number for value in enum.values}.items() <= {
            value.name: value.number for value in known.values
        }.items()
    for name, listed in ours.services_by_name.items():
        for method in listed.methods:
            if (name, method.name) != ("Health", "List"):
                published = methods[name][method.name]
                assert (method.client_streaming, method.server_streaming) == (
                    published.client_streaming,
                    published.server_streaming,
                )
                assert method.input_type.name == published.input_type.name


if __name__ == "__main__":
    MADE.write_bytes(compiled())
