"""The handles of libadamd-client as objects. Every call is one call of the library, whose errors come as
`Error`; memory is passed by address and borrowed for the call. A client, with its sessions, is one
connection: one thread at a time may use it."""

import ctypes
import dataclasses
import enum
import typing
from ctypes import byref

from adamd import library
from adamd.library import lib


class Error(RuntimeError):
    """A call that failed. `reason` is API ("STALE", "TIMED_OUT", ...), `message` is for people, `advice`
    says what to do about it, where somebody knew."""

    def __init__(self, reason, message, *, field="", http_status=0, retriable=False, fatal=False,
                 wants_register=False, metadata=None):
        super().__init__(message)
        self.reason, self.message, self.field = reason, message, field
        self.http_status, self.retriable, self.fatal = http_status, retriable, fatal
        self.wants_register = wants_register
        self.metadata = metadata or {}
        self.advice = ""

    def __str__(self):
        return f"{self.message} ({self.reason})" + (f": {self.advice}" if self.advice else "")


# Values that belong to a reason.
_METADATA = ("current_version", "staleness", "sequence", "expected", "etag")


def _text(value):
    return value.decode("utf-8", "replace") if value is not None else ""


def _check(error):
    """Raises what an adamd_error_t says, and frees it."""
    if error is None:
        return
    metadata = {key: _text(lib.adamd_error_metadata(error, key.encode())) for key in _METADATA}
    raised = Error(
        _text(lib.adamd_error_reason(error)), _text(lib.adamd_error_message(error)),
        field=_text(lib.adamd_error_field(error)),
        http_status=lib.adamd_error_http_status(error),
        retriable=bool(lib.adamd_error_is_retriable(error)),
        fatal=bool(lib.adamd_error_is_fatal(error)),
        wants_register=bool(lib.adamd_error_wants_register(error)),
        metadata={key: value for key, value in metadata.items() if value})
    lib.adamd_error_destroy(error)
    raise raised


def _milliseconds(seconds):
    return 0 if seconds is None else max(1, round(seconds * 1000))


# ---------------------------------------------------------------------------------- what is passed


class Tensor(typing.NamedTuple):
    """A parameter: `dtype` by PyTorch's name. Without a name its key is its index, as text."""

    key: str
    shape: tuple
    dtype: str = "float32"
    is_named: bool = True


DTYPES = {"float32": 1, "float16": 2, "bfloat16": 3, "float64": 4, "complex64": 5, "complex128": 6}
_DTYPE_NAMES = {value: name for name, value in DTYPES.items()}
_TRISTATES = {None: 0, True: 1, False: -1}


class Options(typing.NamedTuple):
    """The options of torch.optim.Adam."""

    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    foreach: typing.Optional[bool] = None
    capturable: bool = False
    differentiable: bool = False
    fused: typing.Optional[bool] = None
    decoupled_weight_decay: bool = False
    tensor_lr: bool = False
    tensor_betas: bool = False

    def struct(self):
        return library.AdamOptions(
            lr=self.lr, beta1=self.betas[0], beta2=self.betas[1], eps=self.eps,
            weight_decay=self.weight_decay, amsgrad=bool(self.amsgrad),
            maximize=bool(self.maximize), foreach=_TRISTATES[self.foreach],
            fused=_TRISTATES[self.fused], capturable=bool(self.capturable),
            differentiable=bool(self.differentiable),
            decoupled_weight_decay=bool(self.decoupled_weight_decay),
            tensor_lr=self.tensor_lr, tensor_betas=self.tensor_betas)


class Group(typing.NamedTuple):
    """What the daemon keeps of a param group beside its parameters. `extras`: (key, JSON) pairs that
    PyTorch does not know."""

    options: Options
    extras: tuple = ()

    def extra_array(self):
        array = (library.Extra * max(len(self.extras), 1))()
        for place, (key, text) in zip(array, self.extras):
            place.key, place.json = key.encode(), text.encode()
        return array


class Trigger(enum.IntEnum):
    BARRIER = 1
    EACH_PUSH = 2
    MANUAL = 3


class Nonfinite(enum.IntEnum):
    REJECT = 1
    SKIP = 2
    ALLOW = 3


@dataclasses.dataclass
class Policy:
    """How pushes become steps. `trigger`: "EACH_PUSH" or "BARRIER"; times are seconds."""

    trigger: str = "EACH_PUSH"
    nonfinite: str = "ALLOW"
    quorum: int = 0
    deadline: float = 0.0
    min_workers: int = 0
    lease: float = 0.0
    max_staleness: typing.Optional[int] = None

    def struct(self):
        return library.Policy(
            trigger=Trigger[self.trigger.upper()], nonfinite=Nonfinite[self.nonfinite.upper()],
            quorum=self.quorum, deadline_ms=round(self.deadline * 1000),
            min_workers=self.min_workers, lease_ms=round(self.lease * 1000),
            max_staleness=library.ANY if self.max_staleness is None else self.max_staleness)


class Model(typing.NamedTuple):
    """What the daemon says of a model."""

    state: str
    version: int
    tensors: list
    groups: list  # by tensor: the group that it is in
    group_count: int


def data_array(pieces):
    """An array of the library's for (address, bytes) pairs: of data to send, or of buffers to fill."""
    array = (library.Data * max(len(pieces), 1))()
    for place, (address, size) in zip(array, pieces):
        place.data, place.byte_size = address, size
    return array


def _tensor_array(tensors):
    array = (library.Tensor * max(len(tensors), 1))()
    for place, tensor in zip(array, tensors):
        place.key = tensor.key.encode() if tensor.is_named else None
        place.shape = (ctypes.c_uint64 * max(len(tensor.shape), 1))(*tensor.shape)
        place.rank = len(tensor.shape)
        place.dtype = DTYPES[tensor.dtype]
    return array


def _group_array(groups):
    """`groups`: (keys, Group) pairs."""
    array = (library.ParamGroup * max(len(groups), 1))()
    for place, (keys, group) in zip(array, groups):
        place.params = (ctypes.c_char_p * max(len(keys), 1))(*[key.encode() for key in keys])
        place.param_count = len(keys)
        place.options = ctypes.pointer(group.options.struct())
        place.extras, place.extra_count = group.extra_array(), len(group.extras)
    return array


class State:
    """A model's whole state as the bytes of a file. `buffer` is valid until close()."""

    def __init__(self, handle):
        self._handle = handle
        size = lib.adamd_state_dict_byte_size(handle)
        self.buffer = (ctypes.c_ubyte * size).from_address(lib.adamd_state_dict_data(handle))

    def close(self):
        if self._handle is not None:
            self.buffer = None
            lib.adamd_state_dict_destroy(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()


# ----------------------------------------------------------------------------------------- handles


class _Handle:
    """One of the library's. `_open` is it, as long as it was not closed."""

    _handle = None

    @property
    def _open(self):
        if self._handle is None:
            raise ValueError(f"this {type(self).__name__.lower()} was closed")
        return self._handle

    def close(self):
        if self._handle is not None:
            self._destroy(self._handle)
            self._handle = None

    def __del__(self):
        self.close()


class Client(_Handle):
    """A connection to a daemon. `settings` are keys of adamd_conf_set(): endpoint, model, worker,
    timeout_ms, ...; a None is left to the library."""

    def __init__(self, **settings):
        self._handle = None
        errstr = ctypes.create_string_buffer(256)
        conf = lib.adamd_conf_new()
        if conf is None:
            raise MemoryError
        for key, value in settings.items():
            if value is not None and lib.adamd_conf_set(
                    conf, key.encode(), str(value).encode(), errstr, len(errstr)) != 0:
                lib.adamd_conf_destroy(conf)
                raise ValueError(_text(errstr.value))
        self._handle = lib.adamd_client_new(conf, errstr, len(errstr))
        if self._handle is None:
            lib.adamd_conf_destroy(conf)
            raise RuntimeError(_text(errstr.value))

    def create_model(self, tensors, groups, policy=None, timeout=None):
        array, group_array = _tensor_array(tensors), _group_array(groups)
        options = library.ModelOptions(
            tensors=array, tensor_count=len(tensors), groups=group_array, group_count=len(groups),
            timeout_ms=_milliseconds(timeout))
        if policy is not None:
            options.policy = ctypes.pointer(policy.struct())
        _check(lib.adamd_model_create(self._open, byref(options)))

    def _model(self):
        handle = ctypes.c_void_p()
        _check(lib.adamd_model_get(self._open, None, byref(handle)))
        return handle

    def get_model(self):
        handle = self._model()
        try:
            count = lib.adamd_model_tensor_count(handle)
            tensors = [lib.adamd_model_tensor(handle, i).contents for i in range(count)]
            return Model(
                _text(lib.adamd_model_state(handle)), lib.adamd_model_version(handle),
                [Tensor(_text(t.key), tuple(t.shape[: t.rank]), _DTYPE_NAMES[t.dtype])
                 for t in tensors],
                [lib.adamd_model_tensor_group(handle, i) for i in range(count)],
                lib.adamd_model_group_count(handle))
        finally:
            lib.adamd_model_destroy(handle)

    def put_parameters(self, pieces, force=False, timeout=None):
        """The first parameters: (address, bytes) pairs, together all of the table."""
        handle = self._model()
        try:
            _check(lib.adamd_put_parameters(self._open, handle, data_array(pieces), len(pieces),
                                            force, _milliseconds(timeout)))
        finally:
            lib.adamd_model_destroy(handle)

    def set_options(self, groups, timeout=None):
        """`groups`: by group, a Group or None for what stays. The version from which they hold."""
        array = (library.GroupUpdate * max(len(groups), 1))()
        for place, group in zip(array, groups):
            if group is not None:
                place.options = ctypes.pointer(group.options.struct())
                place.extras, place.extra_count = group.extra_array(), len(group.extras)
        options = library.SetOptions(groups=array, group_count=len(groups),
                                     timeout_ms=_milliseconds(timeout))
        version = ctypes.c_uint64()
        _check(lib.adamd_set_options(self._open, byref(options), byref(version)))
        return version.value

    def read_state(self, file_format=None, timeout=None):
        options = library.StateOptions(format=file_format and file_format.encode(),
                                       timeout_ms=_milliseconds(timeout))
        handle = ctypes.c_void_p()
        _check(lib.adamd_read_state(self._open, byref(options), byref(handle)))
        return State(handle)

    def write_state(self, pieces, timeout=None):
        """Replaces all state by a file in (address, bytes) pairs. Workers register again after it."""
        options = library.StateOptions(timeout_ms=_milliseconds(timeout))
        _check(lib.adamd_write_state(self._open, byref(options), data_array(pieces),
                                     len(pieces)))

    def register(self, rank=None, timeout=None):
        options = library.RegisterOptions(rank=-1 if rank is None else rank,
                                          timeout_ms=_milliseconds(timeout))
        handle = ctypes.c_void_p()
        _check(lib.adamd_register(self._open, byref(options), byref(handle), None))
        return Session(self, handle)

    _destroy = staticmethod(lib.adamd_client_destroy)


class Session(_Handle):
    """A registered worker."""

    def __init__(self, client, handle):
        self._client = client  # borrowed by the library: it has to stay
        self._handle = handle

    epoch = property(lambda self: lib.adamd_session_epoch(self._open))
    generation = property(lambda self: lib.adamd_session_generation(self._open))
    sequence = property(lambda self: lib.adamd_session_sequence(self._open))

    @property
    def version(self):
        """That was pulled last; None: none yet."""
        version = lib.adamd_session_version(self._open)
        return None if version == library.ANY else version

    def reregister(self, timeout=None):
        """A new epoch: a push in doubt is dropped."""
        options = library.RegisterOptions(rank=-1, timeout_ms=_milliseconds(timeout))
        _check(lib.adamd_reregister(self._open, byref(options), None))

    def add_param_group(self, tensors, group, pieces):
        """A group of new tensors, with keys and values ((address, bytes) pairs). The index of the first."""
        array, extras = _tensor_array(tensors), group.extra_array()
        options = library.AddGroupOptions(
            tensors=array, tensor_count=len(tensors), options=ctypes.pointer(group.options.struct()),
            extras=extras, extra_count=len(group.extras), pieces=data_array(pieces),
            piece_count=len(pieces))
        result = library.AddGroupResult()
        _check(lib.adamd_add_param_group(self._open, byref(options), byref(result)))
        return result.first_tensor

    def push_pull(self, gradients, count, buffers, *, metrics=(), weight=1.0, result=None):
        """One round trip. `gradients`: an array of library.Gradient, of which `count` are meant;
        `buffers`: of library.Buffer. `result` (library.PushResult) tells, after an error too, whether
        the push counted."""
        array = (library.Metric * max(len(metrics), 1))(
            *[library.Metric(key.encode(), value) for key, value in metrics])
        push = library.PushOptions(
            gradients=gradients, gradient_count=count, base_version=library.LAST_PULLED,
            weight=weight, metrics=array, metric_count=len(metrics))
        pull = library.PullOptions(buffers=buffers, buffer_count=len(buffers))
        _check(lib.adamd_push_pull(self._open, byref(push), byref(pull),
                                   byref(result) if result is not None else None, None))

    def pull(self, buffers):
        pull = library.PullOptions(buffers=buffers, buffer_count=len(buffers))
        _check(lib.adamd_pull(self._open, byref(pull), None))

    def renew(self):
        _check(lib.adamd_renew(self._open, 0))

    def deregister(self):
        """The worker leaves: rounds no longer wait for it."""
        _check(lib.adamd_deregister(self._open, 0))

    _destroy = staticmethod(lib.adamd_session_destroy)
