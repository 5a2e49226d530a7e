from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outlook(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTLOOK_UNSPECIFIED: _ClassVar[Outlook]
    NOW: _ClassVar[Outlook]
    AFTER_PREEMPTION: _ClassVar[Outlook]
    WAITS: _ClassVar[Outlook]
    NEVER: _ClassVar[Outlook]

class Health(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_UNSPECIFIED: _ClassVar[Health]
    HEALTHY: _ClassVar[Health]
    DEGRADED: _ClassVar[Health]
    LOST: _ClassVar[Health]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    WAITING: _ClassVar[Phase]
    RESERVED: _ClassVar[Phase]
    ACTIVE: _ClassVar[Phase]
    REVOKING: _ClassVar[Phase]
    STOPPING: _ClassVar[Phase]
    ENDED: _ClassVar[Phase]
OUTLOOK_UNSPECIFIED: Outlook
NOW: Outlook
AFTER_PREEMPTION: Outlook
WAITS: Outlook
NEVER: Outlook
HEALTH_UNSPECIFIED: Health
HEALTHY: Health
DEGRADED: Health
LOST: Health
PHASE_UNSPECIFIED: Phase
WAITING: Phase
RESERVED: Phase
ACTIVE: Phase
REVOKING: Phase
STOPPING: Phase
ENDED: Phase

class AcquireRequest(_message.Message):
    __slots__ = ("request_id", "slots", "ram_mib", "timeout_ms", "no_wait", "models", "uuids", "spread", "can_shrink", "can_offload", "notice_ms", "protection_ms", "ttl_ms", "label")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    RAM_MIB_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    NO_WAIT_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    UUIDS_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    CAN_SHRINK_FIELD_NUMBER: _ClassVar[int]
    CAN_OFFLOAD_FIELD_NUMBER: _ClassVar[int]
    NOTICE_MS_FIELD_NUMBER: _ClassVar[int]
    PROTECTION_MS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    slots: _containers.RepeatedCompositeFieldContainer[SlotRequest]
    ram_mib: int
    timeout_ms: int
    no_wait: bool
    models: _containers.RepeatedScalarFieldContainer[str]
    uuids: _containers.RepeatedScalarFieldContainer[str]
    spread: bool
    can_shrink: bool
    can_offload: bool
    notice_ms: int
    protection_ms: int
    ttl_ms: int
    label: str
    def __init__(self, request_id: _Optional[str] = ..., slots: _Optional[_Iterable[_Union[SlotRequest, _Mapping]]] = ..., ram_mib: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., no_wait: _Optional[bool] = ..., models: _Optional[_Iterable[str]] = ..., uuids: _Optional[_Iterable[str]] = ..., spread: _Optional[bool] = ..., can_shrink: _Optional[bool] = ..., can_offload: _Optional[bool] = ..., notice_ms: _Optional[int] = ..., protection_ms: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., label: _Optional[str] = ..., **kwargs) -> None: ...

class SlotRequest(_message.Message):
    __slots__ = ("memory_mib", "percent")
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    memory_mib: int
    percent: int
    def __init__(self, memory_mib: _Optional[int] = ..., percent: _Optional[int] = ...) -> None: ...

class LeaseEvent(_message.Message):
    __slots__ = ("lease", "queue", "secret")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseView
    queue: Queue
    secret: str
    def __init__(self, lease: _Optional[_Union[LeaseView, _Mapping]] = ..., queue: _Optional[_Union[Queue, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class Queue(_message.Message):
    __slots__ = ("position", "reason", "message", "estimate_ms", "estimate_basis")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_MS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_BASIS_FIELD_NUMBER: _ClassVar[int]
    position: int
    reason: str
    message: str
    estimate_ms: int
    estimate_basis: str
    def __init__(self, position: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., estimate_ms: _Optional[int] = ..., estimate_basis: _Optional[str] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("lease", "secret")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    lease: str
    secret: str
    def __init__(self, lease: _Optional[str] = ..., secret: _Optional[str] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: str
    def __init__(self, lease: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResizeRequest(_message.Message):
    __slots__ = ("lease", "memory_mib", "ram_mib", "notice_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    RAM_MIB_FIELD_NUMBER: _ClassVar[int]
    NOTICE_ID_FIELD_NUMBER: _ClassVar[int]
    lease: str
    memory_mib: _containers.RepeatedScalarFieldContainer[int]
    ram_mib: int
    notice_id: str
    def __init__(self, lease: _Optional[str] = ..., memory_mib: _Optional[_Iterable[int]] = ..., ram_mib: _Optional[int] = ..., notice_id: _Optional[str] = ...) -> None: ...

class MoveRequest(_message.Message):
    __slots__ = ("lease", "memory_mib", "more_ram_mib", "notice_id")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    MORE_RAM_MIB_FIELD_NUMBER: _ClassVar[int]
    NOTICE_ID_FIELD_NUMBER: _ClassVar[int]
    lease: str
    memory_mib: _containers.RepeatedScalarFieldContainer[int]
    more_ram_mib: int
    notice_id: str
    def __init__(self, lease: _Optional[str] = ..., memory_mib: _Optional[_Iterable[int]] = ..., more_ram_mib: _Optional[int] = ..., notice_id: _Optional[str] = ...) -> None: ...

class DryRunResponse(_message.Message):
    __slots__ = ("outlook", "gpus", "victims", "reason", "message")
    OUTLOOK_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    VICTIMS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    outlook: Outlook
    gpus: _containers.RepeatedCompositeFieldContainer[GpuShare]
    victims: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    message: str
    def __init__(self, outlook: _Optional[_Union[Outlook, str]] = ..., gpus: _Optional[_Iterable[_Union[GpuShare, _Mapping]]] = ..., victims: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("pod_uid", "pod_namespace", "pod_name", "container")
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    pod_uid: str
    pod_namespace: str
    pod_name: str
    container: str
    def __init__(self, pod_uid: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod_name: _Optional[str] = ..., container: _Optional[str] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("lease", "gpus")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    lease: str
    gpus: _containers.RepeatedCompositeFieldContainer[GpuShare]
    def __init__(self, lease: _Optional[str] = ..., gpus: _Optional[_Iterable[_Union[GpuShare, _Mapping]]] = ...) -> None: ...

class GpuShare(_message.Message):
    __slots__ = ("uuid", "index", "memory_mib")
    UUID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    index: int
    memory_mib: int
    def __init__(self, uuid: _Optional[str] = ..., index: _Optional[int] = ..., memory_mib: _Optional[int] = ...) -> None: ...

class WatchGpusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GpuList(_message.Message):
    __slots__ = ("gpus", "hold", "unread")
    GPUS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    hold: str
    unread: bool
    def __init__(self, gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., hold: _Optional[str] = ..., unread: _Optional[bool] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("uuid", "index", "model", "total_mib", "reserved_mib", "leasable_mib", "leased_mib", "foreign_mib", "used_mib", "health", "health_reason")
    UUID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MIB_FIELD_NUMBER: _ClassVar[int]
    RESERVED_MIB_FIELD_NUMBER: _ClassVar[int]
    LEASABLE_MIB_FIELD_NUMBER: _ClassVar[int]
    LEASED_MIB_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_MIB_FIELD_NUMBER: _ClassVar[int]
    USED_MIB_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REASON_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    index: int
    model: str
    total_mib: int
    reserved_mib: int
    leasable_mib: int
    leased_mib: int
    foreign_mib: int
    used_mib: int
    health: Health
    health_reason: str
    def __init__(self, uuid: _Optional[str] = ..., index: _Optional[int] = ..., model: _Optional[str] = ..., total_mib: _Optional[int] = ..., reserved_mib: _Optional[int] = ..., leasable_mib: _Optional[int] = ..., leased_mib: _Optional[int] = ..., foreign_mib: _Optional[int] = ..., used_mib: _Optional[int] = ..., health: _Optional[_Union[Health, str]] = ..., health_reason: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("gpus", "node", "deadline_ms", "dry_run")
    GPUS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    gpus: _containers.RepeatedScalarFieldContainer[str]
    node: bool
    deadline_ms: int
    dry_run: bool
    def __init__(self, gpus: _Optional[_Iterable[str]] = ..., node: _Optional[bool] = ..., deadline_ms: _Optional[int] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DrainProgress(_message.Message):
    __slots__ = ("remaining", "gone", "done")
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    remaining: _containers.RepeatedCompositeFieldContainer[LeaseView]
    gone: int
    done: bool
    def __init__(self, remaining: _Optional[_Iterable[_Union[LeaseView, _Mapping]]] = ..., gone: _Optional[int] = ..., done: _Optional[bool] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ("gpus", "node")
    GPUS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    gpus: _containers.RepeatedScalarFieldContainer[str]
    node: bool
    def __init__(self, gpus: _Optional[_Iterable[str]] = ..., node: _Optional[bool] = ...) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CleanupRequest(_message.Message):
    __slots__ = ("dry_run", "ram_only")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    RAM_ONLY_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    ram_only: bool
    def __init__(self, dry_run: _Optional[bool] = ..., ram_only: _Optional[bool] = ...) -> None: ...

class CleanupResponse(_message.Message):
    __slots__ = ("ended",)
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ended: _containers.RepeatedCompositeFieldContainer[LeaseView]
    def __init__(self, ended: _Optional[_Iterable[_Union[LeaseView, _Mapping]]] = ...) -> None: ...

class PreemptRequest(_message.Message):
    __slots__ = ("lease", "force", "dry_run")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    lease: str
    force: bool
    dry_run: bool
    def __init__(self, lease: _Optional[str] = ..., force: _Optional[bool] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class PreemptResponse(_message.Message):
    __slots__ = ("lease", "gpus", "ram_mib", "waiting")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    RAM_MIB_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    lease: LeaseView
    gpus: _containers.RepeatedCompositeFieldContainer[GpuShare]
    ram_mib: int
    waiting: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lease: _Optional[_Union[LeaseView, _Mapping]] = ..., gpus: _Optional[_Iterable[_Union[GpuShare, _Mapping]]] = ..., ram_mib: _Optional[int] = ..., waiting: _Optional[_Iterable[str]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("node", "gpus", "ram", "leases", "boot_id", "agent_epoch")
    NODE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    RAM_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    node: str
    gpus: GpuList
    ram: Ram
    leases: _containers.RepeatedCompositeFieldContainer[LeaseView]
    boot_id: str
    agent_epoch: int
    def __init__(self, node: _Optional[str] = ..., gpus: _Optional[_Union[GpuList, _Mapping]] = ..., ram: _Optional[_Union[Ram, _Mapping]] = ..., leases: _Optional[_Iterable[_Union[LeaseView, _Mapping]]] = ..., boot_id: _Optional[str] = ..., agent_epoch: _Optional[int] = ...) -> None: ...

class MachinesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MachinesResponse(_message.Message):
    __slots__ = ("machines",)
    MACHINES_FIELD_NUMBER: _ClassVar[int]
    machines: _containers.RepeatedCompositeFieldContainer[StatusResponse]
    def __init__(self, machines: _Optional[_Iterable[_Union[StatusResponse, _Mapping]]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("pid", "uid", "name", "label", "used_mib", "phase_ms", "ram_used_mib")
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    USED_MIB_FIELD_NUMBER: _ClassVar[int]
    PHASE_MS_FIELD_NUMBER: _ClassVar[int]
    RAM_USED_MIB_FIELD_NUMBER: _ClassVar[int]
    pid: int
    uid: int
    name: str
    label: str
    used_mib: int
    phase_ms: int
    ram_used_mib: int
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ..., name: _Optional[str] = ..., label: _Optional[str] = ..., used_mib: _Optional[int] = ..., phase_ms: _Optional[int] = ..., ram_used_mib: _Optional[int] = ...) -> None: ...

class Ram(_message.Message):
    __slots__ = ("total_mib", "available_mib", "leasable_mib", "leased_mib", "pressure", "pressure_sign")
    TOTAL_MIB_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MIB_FIELD_NUMBER: _ClassVar[int]
    LEASABLE_MIB_FIELD_NUMBER: _ClassVar[int]
    LEASED_MIB_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_SIGN_FIELD_NUMBER: _ClassVar[int]
    total_mib: int
    available_mib: int
    leasable_mib: int
    leased_mib: int
    pressure: str
    pressure_sign: str
    def __init__(self, total_mib: _Optional[int] = ..., available_mib: _Optional[int] = ..., leasable_mib: _Optional[int] = ..., leased_mib: _Optional[int] = ..., pressure: _Optional[str] = ..., pressure_sign: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: str
    def __init__(self, lease: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lines: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaseView(_message.Message):
    __slots__ = ("lease", "phase", "gpus", "ram_mib", "token", "notice", "reason", "message", "queue", "holder")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    RAM_MIB_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    lease: str
    phase: Phase
    gpus: _containers.RepeatedCompositeFieldContainer[GpuShare]
    ram_mib: int
    token: Token
    notice: Notice
    reason: str
    message: str
    queue: Queue
    holder: Holder
    def __init__(self, lease: _Optional[str] = ..., phase: _Optional[_Union[Phase, str]] = ..., gpus: _Optional[_Iterable[_Union[GpuShare, _Mapping]]] = ..., ram_mib: _Optional[int] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., queue: _Optional[_Union[Queue, _Mapping]] = ..., holder: _Optional[_Union[Holder, _Mapping]] = ..., **kwargs) -> None: ...

class Token(_message.Message):
    __slots__ = ("epoch", "sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    sequence: int
    def __init__(self, epoch: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("id", "preemptor", "preemptor_class", "reason", "needed_mib", "remaining_ms", "needed_ram_mib")
    ID_FIELD_NUMBER: _ClassVar[int]
    PREEMPTOR_FIELD_NUMBER: _ClassVar[int]
    PREEMPTOR_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NEEDED_MIB_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_RAM_MIB_FIELD_NUMBER: _ClassVar[int]
    id: str
    preemptor: str
    preemptor_class: str
    reason: str
    needed_mib: _containers.RepeatedScalarFieldContainer[int]
    remaining_ms: int
    needed_ram_mib: int
    def __init__(self, id: _Optional[str] = ..., preemptor: _Optional[str] = ..., preemptor_class: _Optional[str] = ..., reason: _Optional[str] = ..., needed_mib: _Optional[_Iterable[int]] = ..., remaining_ms: _Optional[int] = ..., needed_ram_mib: _Optional[int] = ...) -> None: ...

class ShrinkRequest(_message.Message):
    __slots__ = ("memory_mib", "notice_id")
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    NOTICE_ID_FIELD_NUMBER: _ClassVar[int]
    memory_mib: _containers.RepeatedScalarFieldContainer[int]
    notice_id: str
    def __init__(self, memory_mib: _Optional[_Iterable[int]] = ..., notice_id: _Optional[str] = ...) -> None: ...

class OffloadRequest(_message.Message):
    __slots__ = ("memory_mib", "ram_mib", "notice_id")
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    RAM_MIB_FIELD_NUMBER: _ClassVar[int]
    NOTICE_ID_FIELD_NUMBER: _ClassVar[int]
    memory_mib: _containers.RepeatedScalarFieldContainer[int]
    ram_mib: int
    notice_id: str
    def __init__(self, memory_mib: _Optional[_Iterable[int]] = ..., ram_mib: _Optional[int] = ..., notice_id: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("notice_id",)
    NOTICE_ID_FIELD_NUMBER: _ClassVar[int]
    notice_id: str
    def __init__(self, notice_id: _Optional[str] = ...) -> None: ...
