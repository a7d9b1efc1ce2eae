"""libadamd-client, found and declared: its structs and functions as client.h has them, no more.

The library is, in this order: the file that ADAMD_CLIENT_LIBRARY names; the one in the build tree that
this file lies in; the one that the system's loader knows.
"""

import ctypes
import os
import pathlib
from ctypes import POINTER, c_char, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint32, c_uint64
from ctypes import c_void_p

_SONAME = "libadamd-client.so.1"
_VERSION = 0x000100  # of client.h as it is declared here
_PRESETS = ("release", "cpu", "dev", "asan", "tsan")

ANY = 2**64 - 1
LAST_PULLED = 2**64 - 1

# ------------------------------------------------------------------------------------------ structs


class Sized(ctypes.Structure):
    """A struct that starts with its size, which it fills in itself."""

    def __init__(self, **values):
        super().__init__(size=ctypes.sizeof(type(self)), **values)


class AdamOptions(Sized):
    _fields_ = [
        ("size", c_size_t), ("lr", c_double), ("beta1", c_double), ("beta2", c_double),
        ("eps", c_double), ("weight_decay", c_double), ("amsgrad", c_int), ("maximize", c_int),
        ("decoupled_weight_decay", c_int), ("foreach", c_int), ("fused", c_int),
        ("capturable", c_int), ("differentiable", c_int), ("tensor_lr", c_int),
        ("tensor_betas", c_int),
    ]


class Policy(Sized):
    _fields_ = [
        ("size", c_size_t), ("trigger", c_int), ("nonfinite", c_int), ("quorum", c_uint32),
        ("deadline_ms", c_uint32), ("min_workers", c_uint32), ("lease_ms", c_uint32),
        ("max_staleness", c_uint64),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [("key", c_char_p), ("shape", POINTER(c_uint64)), ("rank", c_size_t),
                ("dtype", c_int)]


class Extra(ctypes.Structure):
    _fields_ = [("key", c_char_p), ("json", c_char_p)]


class ParamGroup(ctypes.Structure):
    _fields_ = [("params", POINTER(c_char_p)), ("param_count", c_size_t),
                ("options", POINTER(AdamOptions)), ("extras", POINTER(Extra)),
                ("extra_count", c_size_t)]


class GroupUpdate(ctypes.Structure):
    _fields_ = [("options", POINTER(AdamOptions)), ("extras", POINTER(Extra)),
                ("extra_count", c_size_t)]


class ModelOptions(Sized):
    _fields_ = [
        ("size", c_size_t), ("model", c_char_p), ("tensors", POINTER(Tensor)),
        ("tensor_count", c_size_t), ("groups", POINTER(ParamGroup)), ("group_count", c_size_t),
        ("options", POINTER(AdamOptions)), ("policy", POINTER(Policy)), ("timeout_ms", c_uint32),
    ]


class SetOptions(Sized):
    _fields_ = [
        ("size", c_size_t), ("model", c_char_p), ("groups", POINTER(GroupUpdate)),
        ("group_count", c_size_t), ("all", POINTER(AdamOptions)), ("timeout_ms", c_uint32),
    ]


class Data(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("byte_size", c_size_t)]


Buffer = Data  # adamd_buffer_t: the same, to read into


class RegisterOptions(Sized):
    _fields_ = [
        ("size", c_size_t), ("model", c_char_p), ("worker", c_char_p), ("nonce", c_char_p),
        ("rank", c_int64), ("acknowledged_generation", c_uint64),
        ("acknowledged_version", c_uint64), ("timeout_ms", c_uint32),
    ]


class RegisterResult(Sized):
    _fields_ = [
        ("size", c_size_t), ("generation", c_uint64), ("version", c_uint64), ("epoch", c_uint64),
        ("rank", c_uint32), ("lease_ms", c_uint32), ("byte_size", c_uint64),
        ("last_sequence", c_uint64), ("last_version", c_uint64), ("last_outcome", c_int),
        ("layout_digest", c_char * 72),
    ]


class AddGroupOptions(Sized):
    _fields_ = [
        ("size", c_size_t), ("tensors", POINTER(Tensor)), ("tensor_count", c_size_t),
        ("options", POINTER(AdamOptions)), ("extras", POINTER(Extra)), ("extra_count", c_size_t),
        ("pieces", POINTER(Data)), ("piece_count", c_size_t), ("timeout_ms", c_uint32),
    ]


class AddGroupResult(Sized):
    _fields_ = [("size", c_size_t), ("generation", c_uint64), ("version", c_uint64),
                ("byte_size", c_uint64), ("group", c_uint32), ("first_tensor", c_uint32)]


class Gradient(ctypes.Structure):
    _fields_ = [("tensor", c_uint32), ("data", c_void_p), ("byte_size", c_size_t)]


class Metric(ctypes.Structure):
    _fields_ = [("key", c_char_p), ("value", c_double)]


class PushOptions(Sized):
    _fields_ = [
        ("size", c_size_t), ("gradients", POINTER(Gradient)), ("gradient_count", c_size_t),
        ("flat", c_void_p), ("flat_bytes", c_size_t), ("base_version", c_uint64),
        ("weight", c_double), ("replace", c_int), ("metrics", POINTER(Metric)),
        ("metric_count", c_size_t), ("timeout_ms", c_uint32), ("dtype", c_int),
    ]


class PushResult(Sized):
    _fields_ = [
        ("size", c_size_t), ("outcome", c_int), ("duplicate", c_int), ("sequence", c_uint64),
        ("generation", c_uint64), ("version", c_uint64), ("staleness", c_uint64),
        ("contributors", c_uint32), ("grad_norm", c_double),
    ]


class PullOptions(Sized):
    _fields_ = [
        ("size", c_size_t), ("buffers", POINTER(Buffer)), ("buffer_count", c_size_t),
        ("min_version", c_uint64), ("wait_ms", c_uint32), ("if_changed", c_int),
        ("timeout_ms", c_uint32),
    ]


class PullResult(Sized):
    _fields_ = [("size", c_size_t), ("generation", c_uint64), ("version", c_uint64),
                ("not_modified", c_int)]


class StateOptions(Sized):
    _fields_ = [("size", c_size_t), ("model", c_char_p), ("format", c_char_p),
                ("timeout_ms", c_uint32)]


# ---------------------------------------------------------------------------------------- functions

_HANDLE = c_void_p
_ERROR = c_void_p
_OUT = POINTER(c_void_p)

# name: (what it returns, what it takes)
_FUNCTIONS = {
    "adamd_version": (c_uint32, []),
    "adamd_version_string": (c_char_p, []),
    "adamd_error_reason": (c_char_p, [_ERROR]),
    "adamd_error_message": (c_char_p, [_ERROR]),
    "adamd_error_field": (c_char_p, [_ERROR]),
    "adamd_error_metadata": (c_char_p, [_ERROR, c_char_p]),
    "adamd_error_http_status": (c_int, [_ERROR]),
    "adamd_error_is_retriable": (c_int, [_ERROR]),
    "adamd_error_is_fatal": (c_int, [_ERROR]),
    "adamd_error_wants_register": (c_int, [_ERROR]),
    "adamd_error_destroy": (None, [_ERROR]),
    "adamd_conf_new": (_HANDLE, []),
    "adamd_conf_set": (c_int, [_HANDLE, c_char_p, c_char_p, c_char_p, c_size_t]),
    "adamd_conf_destroy": (None, [_HANDLE]),
    "adamd_client_new": (_HANDLE, [_HANDLE, c_char_p, c_size_t]),
    "adamd_client_destroy": (None, [_HANDLE]),
    "adamd_model_create": (_ERROR, [_HANDLE, POINTER(ModelOptions)]),
    "adamd_model_get": (_ERROR, [_HANDLE, c_char_p, _OUT]),
    "adamd_model_destroy": (None, [_HANDLE]),
    "adamd_model_state": (c_char_p, [_HANDLE]),
    "adamd_model_version": (c_uint64, [_HANDLE]),
    "adamd_model_tensor_count": (c_size_t, [_HANDLE]),
    "adamd_model_tensor": (POINTER(Tensor), [_HANDLE, c_size_t]),
    "adamd_model_tensor_group": (c_size_t, [_HANDLE, c_size_t]),
    "adamd_model_group_count": (c_size_t, [_HANDLE]),
    "adamd_set_options": (_ERROR, [_HANDLE, POINTER(SetOptions), POINTER(c_uint64)]),
    "adamd_put_parameters": (
        _ERROR, [_HANDLE, _HANDLE, POINTER(Data), c_size_t, c_int, c_uint32]),
    "adamd_register": (
        _ERROR, [_HANDLE, POINTER(RegisterOptions), _OUT, POINTER(RegisterResult)]),
    "adamd_reregister": (
        _ERROR, [_HANDLE, POINTER(RegisterOptions), POINTER(RegisterResult)]),
    "adamd_renew": (_ERROR, [_HANDLE, c_uint32]),
    "adamd_deregister": (_ERROR, [_HANDLE, c_uint32]),
    "adamd_add_param_group": (
        _ERROR, [_HANDLE, POINTER(AddGroupOptions), POINTER(AddGroupResult)]),
    "adamd_session_destroy": (None, [_HANDLE]),
    "adamd_session_epoch": (c_uint64, [_HANDLE]),
    "adamd_session_generation": (c_uint64, [_HANDLE]),
    "adamd_session_version": (c_uint64, [_HANDLE]),
    "adamd_session_sequence": (c_uint64, [_HANDLE]),
    "adamd_push_pull": (
        _ERROR, [_HANDLE, POINTER(PushOptions), POINTER(PullOptions), POINTER(PushResult),
                 POINTER(PullResult)]),
    "adamd_pull": (_ERROR, [_HANDLE, POINTER(PullOptions), POINTER(PullResult)]),
    "adamd_read_state": (_ERROR, [_HANDLE, POINTER(StateOptions), _OUT]),
    "adamd_write_state": (_ERROR, [_HANDLE, POINTER(StateOptions), POINTER(Data), c_size_t]),
    "adamd_state_dict_data": (c_void_p, [_HANDLE]),
    "adamd_state_dict_byte_size": (c_size_t, [_HANDLE]),
    "adamd_state_dict_destroy": (None, [_HANDLE]),
}


def library_path():
    """The file that is loaded, or the name by which the system's loader is asked."""
    named = os.environ.get("ADAMD_CLIENT_LIBRARY")
    if named:
        return named
    root = pathlib.Path(__file__).resolve().parents[3]
    for preset in _PRESETS:
        path = root / "build" / preset / "lib" / _SONAME
        if path.exists():
            return str(path)
    return _SONAME


def _load():
    path = library_path()
    try:
        loaded = ctypes.CDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ImportError(
            f"libadamd-client cannot be used: {error}; install it, build it, or name its file in "
            "ADAMD_CLIENT_LIBRARY") from error
    if loaded.adamd_version() >> 8 != _VERSION >> 8:
        raise ImportError(f"{path} is version {loaded.adamd_version_string().decode()} of "
                          "libadamd-client, this package is made for 0.1")
    return loaded


lib = _load()


def version():
    """Of the library that is loaded: "0.1.0"."""
    return lib.adamd_version_string().decode()
