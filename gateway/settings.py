"""Settings: flag > `SNOWGATE_SECTION__KEY` > `snowgate.toml` > default.

They are read once, at the start of a process, into one frozen object; nothing else reads the environment. A key that
is not known is an error with a suggestion, because a misspelt limit is worse than none.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from gateway.export.settings import ExportSettings
from gateway.section import BY_COMMAS, Names, Section

FILE = "snowgate.toml"
PREFIX = "SNOWGATE_"
REPLICAS_MAX = 64
"""Runners of one version: as many as the largest of today's machines can give a core each."""
NOT_SETTINGS = {"SNOWGATE_HOME", "SNOWGATE_SERVER", "SNOWGATE_OUTPUT", "SNOWGATE_CONFIG"}
STANDARD = {"OTEL_EXPORTER_OTLP_ENDPOINT": "tracing.endpoint"}
"""Variables of others' that mean a setting of ours; they stand above the file and below our own variables."""


Engine = Literal["auto", "eager", "onnxruntime", "channels-last", "frozen", "frozen-channels-last", "openvino"]
"""As in `bundles.runner.engines`, said again because settings import nothing heavy; a test holds the two together."""


Device = Annotated[str, Field(pattern=r"^(cpu|cuda:\d{1,3})$")]
# A variable holds one text: cuda:0,cuda:1.
Devices = Annotated[list[Device], BY_COMMAS]
Paths = Annotated[tuple[Annotated[str, Field(pattern=r"^\$[.\[]")], ...], BY_COMMAS]


class SettingsError(Exception):
    """A setting is unknown or out of its range; the text says where it stands and what was expected."""


class ServerSettings(Section):
    """Where and how calls are taken."""

    host: str = Field(
        default="127.0.0.1", description="Address of both ports; any but loopback needs keys or insecure."
    )
    port: int = Field(
        default=8080, ge=0, le=65533, description="Data port; gRPC is on port+1, control on port+2; 0: free ones."
    )
    grpc: bool = Field(default=True, description="Whether calls are taken over gRPC too.")
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="gRPC's port; port+1 unless given; 0: a free one."
    )
    grpc_connection_seconds: float = Field(
        default=300.0, gt=0, description="Age at which a gRPC connection is ended gently, so that workers balance."
    )
    workers: int = Field(default=1, ge=1, le=64, description="Worker processes that share the data port.")
    environment: str = Field(default="production", description="The environment whose refs are followed.")
    policy_file: Path | None = Field(
        default=None,
        description="Whose words about bundles count, and what is asked of them; HOME/policy.toml if none.",
    )
    api_keys_file: Path | None = Field(default=None, description="A file with one API key a line.")
    insecure: bool = Field(default=False, description="Serve another address than loopback without keys.")
    unit_header: str = Field(
        default="Snowgate-Unit", description="Header with the unit: sticky key, unit of statistics."
    )
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, description="Largest body of a call, as in Triton.")
    body_seconds: float = Field(default=30.0, gt=0, description="How long the body of a call may take to come.")
    header_seconds: float = Field(default=10.0, gt=0, description="How long the headers of a request may take to come.")
    max_connections: int = Field(
        default=4096,
        ge=1,
        description="Open connections of a worker, over HTTP and over gRPC; beyond it HTTP's health is answered.",
    )
    max_waiting_bytes: int = Field(
        default=512 * 1024 * 1024, ge=1024, description="Bodies of all calls that wait; workers have equal shares."
    )
    max_waiting_calls: int = Field(
        default=2048, ge=1, description="Calls of a version that wait for a runner; workers have equal shares."
    )
    timeout_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Deadline of a call, unless it asks for less."
    )
    drain_seconds: float = Field(default=20.0, gt=0, description="Grace for calls in flight at the end.")
    allowed_origins: tuple[str, ...] = Field(
        default=(), description='Web pages that may call the data port, such as ["https://lab.example"].'
    )
    repository_api: bool = Field(
        default=False, description="Let clients load and unload models by the protocol's repository extension."
    )

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """In an environment variable there is no list: commas part the origins."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class RunnerSettings(Section):
    """The processes in which models are loaded."""

    replicas: int = Field(default=1, ge=1, le=REPLICAS_MAX, description="Runners of a version that has traffic.")
    memory_bytes: int | None = Field(
        default=None, ge=64 * 1024 * 1024, description="A runner that takes more is killed and started anew."
    )
    hang_seconds: float = Field(
        default=60.0, gt=0, description="A runner whose batch takes longer is killed and started anew."
    )
    load_seconds: float = Field(default=600.0, gt=0, description="How long a model may take to load.")
    devices: Devices = Field(
        default=["cpu"], min_length=1, description="Where replicas run, one a device in turn: cpu, cuda:0, cuda:1, …"
    )
    confine: bool = Field(
        default=True, description="Runners have no network, no rights, and files only where they need them."
    )
    environments: Literal["own", "gateway"] = Field(
        default="own", description="Bundles with requirements of their own get them (own), or what is here (gateway)."
    )
    deaths_max: int = Field(
        default=10, ge=1, description="After so many deaths in a row a runner is parked and an incident opened."
    )
    engine: Engine = Field(
        default="auto", description="What runs torch bundles: the fastest that agrees (auto), or always this one."
    )


class LogSettings(Section):
    """The prediction log: what is promised of it, and what of the calls it keeps."""

    segment_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024 * 1024, description="A segment is closed at this size."
    )
    segment_seconds: float = Field(
        default=3600.0, ge=1, le=7 * 86_400, description="… or at this age, by the next call: then it becomes Parquet."
    )
    durability: Literal["commit", "async"] = Field(
        default="commit", description="Answers wait until their record is on disk (commit), or leave before (async)."
    )
    loss_seconds: float = Field(
        default=1.0, ge=0.1, le=60, description="With async: a crash loses what was answered within so long at most."
    )
    loss_records: int = Field(
        default=10_000, ge=1, le=1_000_000, description="With async: a crash loses so many records at most."
    )
    on_failure: Literal["refuse", "serve"] = Field(
        default="refuse", description="While the log can't be written: refuse calls, or answer them unlogged (serve)."
    )
    checkpoint_seconds: float = Field(
        default=5.0, ge=0.1, le=3600, description="How often it is signed how far the log has come."
    )
    keep_days: float | None = Field(
        default=400.0, gt=0, description="Records go when they are so old and every follower has read them."
    )
    max_bytes: int | None = Field(
        default=None, ge=16 * 1024 * 1024, description="The oldest records go when the log takes more, read or not."
    )
    inline_bytes_max: int = Field(
        default=1024 * 1024, ge=4096, description="A larger tensor lies in a file of its own, the same one only once."
    )
    payload_rate: float = Field(
        default=1.0, ge=0, le=1, description="Share of the predictions whose tensors and parameters are kept."
    )
    redact_tensors: Names = Field(default=(), description="Inputs and outputs, by name, whose bytes are never written.")
    redact_parameters: Names = Field(default=(), description="Parameters of calls whose values are never written.")
    redact_json: Paths = Field(
        default=(), description="JSON paths, such as $.person.name, taken out of inputs that are declared as JSON."
    )
    units: Literal["clear", "hashed"] = Field(
        default="clear", description="Whether payloads hold the unit's name; records always hold its keyed hash."
    )


class ModelLogSettings(Section):
    """What is different for the records of one model; what is left out is as under `[log]`."""

    on_failure: Literal["refuse", "serve"] | None = Field(default=None, description="As log.on_failure.")
    payload_rate: float | None = Field(default=None, ge=0, le=1, description="As log.payload_rate.")
    redact_tensors: Names | None = Field(default=None, description="As log.redact_tensors.")
    redact_parameters: Names | None = Field(default=None, description="As log.redact_parameters.")
    redact_json: Paths | None = Field(default=None, description="As log.redact_json.")
    units: Literal["clear", "hashed"] | None = Field(default=None, description="As log.units.")


class ModelSettings(Section):
    """What is different for one model; what is left out is as under `[runner]` and `[log]`."""

    replicas: int | None = Field(default=None, ge=1, le=REPLICAS_MAX, description="As runner.replicas.")
    memory_bytes: int | None = Field(default=None, ge=64 * 1024 * 1024, description="As runner.memory_bytes.")
    hang_seconds: float | None = Field(default=None, gt=0, description="As runner.hang_seconds.")
    load_seconds: float | None = Field(default=None, gt=0, description="As runner.load_seconds.")
    devices: Devices | None = Field(default=None, min_length=1, description="As runner.devices.")
    engine: Engine | None = Field(default=None, description="As runner.engine.")
    confine: bool | None = Field(default=None, description="As runner.confine.")
    environments: Literal["own", "gateway"] | None = Field(default=None, description="As runner.environments.")
    log: ModelLogSettings = ModelLogSettings()


class TracingSettings(Section):
    """Which calls are traced, and where their spans go."""

    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        description="Base URL of an OTLP/HTTP collector, also OTEL_EXPORTER_OTLP_ENDPOINT; none: no traces.",
    )
    sample_ratio: float = Field(
        default=0.01, ge=0, le=1, description="Share of the calls without a traceparent that are traced."
    )
    traces_per_second_max: float = Field(
        default=20.0, ge=0, description="Most calls that are traced a second, those that a client asks for included."
    )


class LoggingSettings(Section):
    """The lines on standard error, of all processes but the runners."""

    format: Literal["text", "json"] = Field(default="text", description="For people, or one JSON object a line.")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is said.")
    access: bool = Field(default=False, description="A line for every call, not only for those that fail here.")


class MonitorSettings(Section):
    """When a human is woken."""

    days_per_false_page: float = Field(
        default=90.0, gt=0, description="At most one false page in so many days, expected."
    )
    tolerance: float = Field(default=0.1, ge=0, lt=1, description="Relative changes below this wake nobody.")
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="Confidence of the band around the baseline's shares."
    )
    batch_rows: int = Field(default=64, ge=1, le=4096, description="Rows of a version that are judged together.")
    batch_seconds: float = Field(default=1.0, gt=0, description="Longest time that rows wait to be judged.")
    quiet_rows: int = Field(
        default=2000, ge=1, description="An open incident resolves after so many rows without evidence."
    )


class WebhookSettings(Section):
    """A plain webhook for pages."""

    url: str | None = Field(default=None, description="Where pages are posted.")
    timeout_seconds: float = Field(default=10.0, gt=0, description="How long one attempt may take.")


class PageSettings(Section):
    """How a human is reached."""

    console_url: str | None = Field(
        default=None, description="Base of the links in a page; the control port by default."
    )
    webhook: WebhookSettings = WebhookSettings()


class Settings(Section):
    """All settings of a gateway."""

    server: ServerSettings = ServerSettings()
    runner: RunnerSettings = RunnerSettings()
    models: dict[str, ModelSettings] = Field(default={}, description="By model, what is different for it.")
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    logging: LoggingSettings = LoggingSettings()
    monitor: MonitorSettings = MonitorSettings()
    page: PageSettings = PageSettings()
    export: ExportSettings = ExportSettings()

    def runner_of(self, model: str) -> RunnerSettings:
        """Return the settings of one model's runners."""
        own = self.models.get(model, ModelSettings()).model_dump(exclude_none=True, exclude={"log"})
        return self.runner.model_copy(update=own)

    def log_of(self, model: str) -> LogSettings:
        """Return the settings of one model's records."""
        return self.log.model_copy(update=self.models.get(model, ModelSettings()).log.model_dump(exclude_none=True))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the ports."""
        if self.server.host == "localhost":
            return True
        try:
            return ip_address(self.server.host).is_loopback
        except ValueError:
            return False


def load_settings(
    file: Path | None, variables: Mapping[str, str], flags: Mapping[str, Any]
) -> tuple[Settings, dict[str, str]]:
    """Put the settings together and say where each given one comes from.

    `flags` are dotted names with their values (None is not given). Returns the settings and the origin of every key
    that is not at its default.

    Raises:
        SettingsError: naming the key, its origin, its value and what was expected.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if file is not None:
        for path, value in _flatten(_read(file)).items():
            _put(merged, path, value)
            origins[".".join(path)] = str(file)
    for name, key in STANDARD.items():
        if variables.get(name):
            _put(merged, key.split("."), variables[name])
            origins[key] = name
    for name, text in variables.items():
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and "__" in name:
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            _put(merged, key.split("."), text)
            origins[key] = name
    for key, value in flags.items():
        if value is not None:
            _put(merged, key.split("."), value)
            origins[key] = f"--{key.rpartition('.')[2].replace('_', '-')}"
    try:
        return Settings.model_validate(merged), origins
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        origin = next((where for known, where in origins.items() if known.startswith(key)), "settings")
        if first["type"] == "extra_forbidden":
            close = get_close_matches(key, known_keys(), 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else "`snowgate config show` lists all"
            raise SettingsError(f"{origin}: unknown setting {key}; {hint}") from None
        raise SettingsError(f"{origin}: {key} = {first['input']!r}: {first['msg']}") from None


def find_file(home: Path) -> Path | None:
    """Return the settings file: the one here, else the one in the home folder."""
    for candidate in (Path(FILE), home / FILE):
        if candidate.is_file():
            return candidate
    return None


def known_keys(section: type[BaseModel] = Settings, before: str = "") -> list[str]:
    """List the dotted names of all settings, those of single models left out."""
    keys = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if section is Settings and name == "models":
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{before}{name}.")
        else:
            keys.append(before + name)
    return keys


def read_environment() -> dict[str, str]:
    """Return the variables that settings may come from."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX) or name in STANDARD}


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error


def _flatten(document: Mapping[str, Any], before: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the values by their paths; a model's name may hold dots, so a path is no string."""
    flat: dict[tuple[str, ...], Any] = {}
    for name, value in document.items():
        path = (*before, name)
        flat |= _flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


def _put(merged: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *sections, name = path
    place = merged
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            msg = f"{section} = {place!r}: is a section; write its settings under [{section}], such as {'.'.join(path)}"
            raise SettingsError(msg)
    place[name] = value
