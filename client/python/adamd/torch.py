"""torch.optim.Adam and AdamW whose state lives in a daemon.

    optimizer = RemoteAdamW(model.parameters(), lr=3e-4, model="gpt2")     # the one line that changes

step() pushes the gradients and brings the parameters back in place, in one round trip. Everything else
is PyTorch's own class: its constructor, its checks and texts, its param_groups, hooks and repr.
"""

import collections
import contextlib
import json
import os
import time
import warnings

import torch

from adamd import library, statefile
from adamd.client import Client, Error, Group, Options, Policy
from adamd.memory import Slot, Table, bytes_of, plain

__all__ = ["RemoteAdam", "RemoteAdamW"]

_OPTION_NAMES = tuple(name for name in Options._fields if not name.startswith("tensor_"))
_KNOWN_NAMES = frozenset(_OPTION_NAMES) | {"params", "param_names"}
_EXTRA_KEY_MAX, _EXTRA_VALUE_MAX, _EXTRAS_MAX = 128, 16384, 64  # what the daemon keeps of a group
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
# PyTorch before 2.4 has the fused Adam on GPUs only, and refuses it for what it would run itself.
_REFUSES_FUSED = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 4)
_TAKE_OVER_SECONDS = 10.0

_ADVICE = {
    "retry": "call step() again with the same gradients, which counts once, or recover() to drop them",
    "dropped": "the gradients were dropped and the parameters are the daemon's now: compute again",
    "recover": "call recover(), which registers again and brings the daemon's parameters, then "
               "compute again",
    "gone": "the daemon has no such model, perhaps because it was started anew: load_state_dict() "
            "puts a checkpoint into it, recover() makes it from the parameters here with state zero",
}


# ------------------------------------------------------------------------------------- small things


def _number(value):
    return value.item() if isinstance(value, torch.Tensor) else value


def _extras_of(group):
    """The keys that PyTorch does not know, as far as JSON and the daemon's limits go: all are kept here."""
    extras = []
    for key in group.keys() - _KNOWN_NAMES:
        try:
            text = json.dumps(group[key], allow_nan=False)
        except (TypeError, ValueError):
            continue
        if isinstance(key, str) and len(key) <= _EXTRA_KEY_MAX and len(text) <= _EXTRA_VALUE_MAX:
            extras.append((key, text))
    return tuple(sorted(extras)[:_EXTRAS_MAX])


def _metrics_of(loss):
    """A closure may return anything; what is one number is reported."""
    try:
        return [("loss", float(loss.detach() if isinstance(loss, torch.Tensor) else loss))]
    except (TypeError, ValueError, RuntimeError):
        return []


def _differences(mine, theirs, my_groups, their_groups):
    """Texts, one for each difference of two tables of tensors."""
    found = []
    by_key = {tensor.key: (tensor, group) for tensor, group in zip(theirs, their_groups)}
    for tensor, group in zip(mine, my_groups):
        other, other_group = by_key.pop(tensor.key, (None, None))
        if other is None:
            found.append(f"{tensor.key} is missing there")
        elif (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
            found.append(f"{tensor.key} is {tensor.dtype} {list(tensor.shape)} here, "
                         f"{other.dtype} {list(other.shape)} there")
        elif other_group != group:
            found.append(f"{tensor.key} is in group {group} here, in group {other_group} there")
    return found + [f"{key} is missing here" for key in by_key]


# ---------------------------------------------------------------------------------------- optimizer


class _Remote:
    """What RemoteAdam and RemoteAdamW are beside PyTorch's class, which stands behind it.

    Keyword-only, beside PyTorch's own arguments:
      endpoint   "http://HOST:PORT" or "unix:/PATH" (ADAMD_ENDPOINT, or http://127.0.0.1:7440)
      model      its name in the daemon (ADAMD_MODEL)
      worker     this worker's name ("rank-" and RANK, which launchers set, or 0)
      rank       its place in the mean (RANK)
      workers    how many push together: more than one makes a step a round of all, a BARRIER (1)
      policy     an adamd.Policy, instead of `workers`
      weight     of this worker's gradient in the mean (1)
      timeout    seconds that a call may take, repeats included (60)
    """

    _decoupled = False
    _session = None  # until the constructor has connected: groups are PyTorch's alone so far
    _is_loading = False

    def __init__(self, params, *args, endpoint=None, model=None, worker=None, rank=None, workers=1,
                 policy=None, weight=1.0, timeout=60.0, **options):
        fused = options.get("fused")
        if fused and _REFUSES_FUSED:
            self._check_fused(options)
            options["fused"] = False
        super().__init__(params, *args, **options)
        if fused and _REFUSES_FUSED:
            self._set_fused()
        self._take_service(endpoint, model, worker, rank)
        self._policy = policy or Policy(trigger="BARRIER" if workers > 1 else "EACH_PUSH",
                                        min_workers=workers if workers > 1 else 0)
        self._weight, self._timeout = float(weight), timeout
        self._client = Client(timeout_ms=max(1, round(timeout * 1000)), **self._service)
        self._held = None  # the options that this worker sent last, by group
        self._is_torn = False  # a pull broke off: parameters here may be of two versions
        self._slots = []
        self._name_parameters()
        self._join()

    @staticmethod
    def _check_fused(options):
        if options.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if options.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")

    def _set_fused(self):
        self._step_supports_amp_scaling = True
        self.defaults["fused"] = True
        for group in self.param_groups:
            group["fused"] = True

    def _take_service(self, endpoint, model, worker, rank):
        launched = os.environ.get("RANK")
        if rank is None and launched is not None:
            rank = int(launched)
        model = model or os.environ.get("ADAMD_MODEL")
        if not model:
            raise ValueError("name the model that the daemon shall keep: model=\"...\", or ADAMD_MODEL")
        self._rank = rank
        self._service = {
            "endpoint": endpoint or os.environ.get("ADAMD_ENDPOINT"), "model": model,
            "worker": worker or f"rank-{rank or 0}"}

    # Tables of parameters.

    def _name_parameters(self):
        """A slot for each parameter, in the order of the groups; those that have one keep it."""
        known = {id(slot.param): slot for slot in self._slots}
        slots, seen = [], set()
        for group in self.param_groups:
            names = group.get("param_names") or [None] * len(group["params"])
            for name, param in zip(names, group["params"]):
                if id(param) in seen:
                    raise ValueError("a parameter is twice in a group: a daemon steps each once")
                seen.add(id(param))
                slots.append(known.get(id(param)) or Slot(param, name, len(slots)))
        self._slots = slots

    def _groups_of_slots(self):
        return [i for i, group in enumerate(self.param_groups) for _ in group["params"]]

    def _take_indices(self, tensors):
        index = {tensor.key: i for i, tensor in enumerate(tensors)}
        for slot in self._slots:
            slot.index = index[slot.key]
        self._table = Table(self._slots)

    def _group_of(self, group):
        """What the daemon is told of it."""
        values = {name: group[name] for name in _OPTION_NAMES if name in group}
        values.setdefault("decoupled_weight_decay", self._decoupled)
        values["betas"] = tuple(float(_number(beta)) for beta in group["betas"])
        for name in ("lr", "eps", "weight_decay"):
            values[name] = float(_number(group[name]))
        return Group(Options(tensor_lr=isinstance(group["lr"], torch.Tensor),
                             tensor_betas=isinstance(group["betas"][0], torch.Tensor), **values),
                     _extras_of(group))

    def _groups(self):
        return [self._group_of(group) for group in self.param_groups]

    def _keys_by_group(self):
        return [[slot.key for slot in slots] for _, slots in self._slots_by_group()]

    # Joining.

    def _join(self):
        """Makes the model or, if it is there, compares it and takes its parameters; registers."""
        groups = self._groups()
        tensors = [slot.describe() for slot in self._slots]
        if self._create(tensors, groups):
            self._take_indices(tensors)
            self._put_first()
            self._held = groups
        is_new = self._held is not None
        if not is_new:
            self._take_indices(self._await())
        self._session = self._client.register(self._rank)
        if is_new:
            self._table.remember()
        else:
            self._pull()

    def _create(self, tensors, groups):
        """False: it was there already."""
        try:
            self._client.create_model(tensors, list(zip(self._keys_by_group(), groups)),
                                      self._policy)
        except Error as error:
            if error.reason == "EXISTS":
                return False
            self._refuse(error)
        return True

    def _put_first(self):
        values = [plain(slot.param) for slot in self._table.slots]
        try:
            self._client.put_parameters([(v.data_ptr(), bytes_of(v)) for v in values])
        except Error as error:
            if error.reason != "PRECONDITION_REQUIRED":  # who waited took over
                raise

    def _differences(self, model):
        found = _differences([slot.describe() for slot in self._slots], model.tensors,
                             self._groups_of_slots(), model.groups)
        if model.group_count != len(self.param_groups):
            found.append(f"{len(self.param_groups)} groups here, {model.group_count} there")
        return found

    def _await(self):
        """The table of a model that somebody else made, once it has parameters."""
        end = time.monotonic() + min(self._timeout, _TAKE_OVER_SECONDS)
        model = self._client.get_model()
        found = self._differences(model)
        if found:
            raise ValueError(
                f"the daemon's model \"{self._service['model']}\" is another one: " +
                "; ".join(found[:10]))
        while model.state == "INITIALIZING":
            if time.monotonic() > end:  # its maker is gone
                self._take_indices(model.tensors)
                self._put_first()
            time.sleep(0.02)
            model = self._client.get_model()
        return model.tensors

    # Growing.

    def add_param_group(self, param_group):
        """See torch.optim.Optimizer. Of several workers the first one's values count; all have to add it
        between the same two steps."""
        super().add_param_group(param_group)
        if self._session is None:  # of the constructor: the model is made of all groups at once
            return
        slots = self._slots
        try:
            self._name_parameters()
            self._add_last_group(self._slots[len(slots):])
        except BaseException:
            self.param_groups.pop()
            self._slots = slots
            raise

    def _add_last_group(self, slots):
        group = self._group_of(self.param_groups[-1])
        values = [plain(slot.param) for slot in slots]
        try:
            first = self._session.add_param_group(
                [slot.describe()._replace(is_named=True) for slot in slots], group,
                [(value.data_ptr(), bytes_of(value)) for value in values])
        except Error as error:
            self._join_grown(error)
            return
        for i, slot in enumerate(slots):
            slot.index, slot.version = first + i, slot.param._version
        self._table = Table(self._slots)
        if self._held is not None:
            self._held = [*self._held, group]

    def _join_grown(self, error):
        """The group was refused: unless another worker has added it, that is it."""
        model = self._client.get_model()
        if self._differences(model):
            self._refuse(error)
        self._register_again()
        self._take_indices(model.tensors)
        self._held = None
        self._pull()

    # Parameters.

    def _pull(self):
        with torch.no_grad():
            self._is_torn = True
            self._session.pull(self._table.buffers())
            self._table.take_pulled()
            self._is_torn = False

    @property
    def version(self):
        """The daemon's version of the parameters here."""
        return self._session.version

    def put_parameters(self):
        """Sends the parameters as they are here; their moments and steps stay. step() does it by itself
        when they were changed in place since the last one, for example by load_state_dict() of a
        module. Other workers have to register again: see recover()."""
        with self._client.read_state() as state:
            tensors = statefile.read(state.buffer)
        for slot in self._slots:
            tensors[slot.key] = plain(slot.param.detach())
        self._write(tensors)

    def _write(self, tensors):
        """All state, in the place of what the daemon has; makes the model if it is gone."""
        groups = self._groups()
        names = [group.get("param_names") for group in self.param_groups]
        pieces, head = statefile.write(
            tensors, [statefile.describe_group(*each)
                      for each in zip(groups, self._keys_by_group(), names)])
        try:
            try:
                self._client.write_state(pieces)
            except Error as error:
                if error.reason != "NOT_FOUND":
                    raise
                self._create([slot.describe() for slot in self._slots], groups)
                self._client.write_state(pieces)
        except Error as error:
            self._refuse(error)
        del head
        self._register_again()
        self._held = groups
        self._table.remember()

    def _register_again(self):
        try:
            self._session.reregister()
        except Error as error:
            if not error.wants_register and error.reason != "NOT_FOUND":
                raise
            self._session = self._client.register(self._rank)

    # The step.

    @torch.no_grad()
    def step(self, closure=None):
        """One step of optimizer.step(): see torch.optim.Adam. Raises adamd.Error if the push failed, with
        the advice what to do."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # GradScaler's, for the time of one step.
        grad_scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        self._check_scaler(grad_scale, found_inf)
        kept = self._table.collect()
        if not kept or (found_inf is not None and float(found_inf) != 0.0):
            return loss
        if grad_scale is not None:
            self._unscale(kept, grad_scale)
        self._send_changes()
        self._push(len(kept), _metrics_of(loss))
        return loss

    def _check_scaler(self, grad_scale, found_inf):
        is_fused = any(group.get("fused") for group in self.param_groups)
        if not is_fused and (grad_scale is not None or found_inf is not None):
            raise AssertionError("Expected grad_scale and found_inf to be None")

    def _unscale(self, kept, grad_scale):
        """Divides by GradScaler's scale, in the gradients themselves too, as PyTorch's fused step does."""
        for i, (grad, _) in enumerate(kept):
            grad.div_(grad_scale.to(grad.device))
            self._table.collect_again(kept, i)

    def _check_tensor_lr(self, group):
        if isinstance(group["lr"], torch.Tensor) and group.get("foreach") and \
                not group.get("capturable"):
            raise RuntimeError("lr as a Tensor is not supported for capturable=False and foreach=True")

    def _send_changes(self):
        """What was changed here since the last step: options, then parameters."""
        for group in self.param_groups:
            self._check_tensor_lr(group)
        groups = self._groups()
        if groups != self._held:
            held = self._held or [None] * len(groups)
            changed = [new if new != old else None for new, old in zip(groups, held)]
            try:
                self._client.set_options(changed)
            except Error as error:
                self._refuse(error)
            self._held = groups
        if not self._is_torn and self._table.is_changed():
            if self._policy.trigger.upper() == "BARRIER":
                raise RuntimeError("parameters were changed here since the last step: with several "
                                   "workers, call put_parameters() in one and recover() in the others")
            self.put_parameters()

    def _push(self, count, metrics):
        result = library.PushResult()
        try:
            self._session.push_pull(self._table.gradients, count, self._table.buffers(),
                                    metrics=metrics, weight=self._weight, result=result)
        except Error as error:
            self._is_torn = self._is_torn or result.outcome != 0
            self._advise(error)
            raise
        self._table.take_pulled()
        self._is_torn = False

    def _refuse(self, error):
        """Raises what the daemon said of options, as PyTorch would raise it."""
        if error.reason == "BAD_FIELD":
            is_combination = error.message.startswith("`") or " with fused=True" in error.message
            raise (RuntimeError if is_combination else ValueError)(error.message) from error
        if self._session is not None:
            self._advise(error)
        raise error

    def _advise(self, error):
        """Says what to do; where nothing but registering again helps, does it."""
        if error.reason == "NOT_FOUND":
            error.advice = _ADVICE["gone"]
        elif error.reason in ("STALE", "IN_DOUBT") or error.wants_register:
            error.advice = _ADVICE["dropped"]
            try:
                if error.reason != "STALE":
                    self._register_again()
                self._pull()
            except Error:
                error.advice = _ADVICE["recover"]
        elif error.retriable:
            error.advice = _ADVICE["retry"]
        elif error.fatal:
            error.advice = _ADVICE["recover"]

    def recover(self):
        """After a failed step: registers again, drops what was in doubt, and brings the daemon's
        parameters. If the daemon has no such model any more, makes it from the parameters here."""
        try:
            self._register_again()
        except Error as error:
            if error.reason != "NOT_FOUND":
                raise
            if self._is_torn:
                error.advice = ("the parameters here are of two versions, since a pull broke off: put "
                                "a checkpoint into the module, then load_state_dict()")
                raise
            warnings.warn("the daemon has lost the model: it is made anew, and its moments are zero")
            self._held = None
            self._join()
            return
        self._held = None  # whatever the daemon has: it is told again
        self._pull()

    def close(self):
        """This worker leaves: rounds no longer wait for it."""
        with contextlib.suppress(Error, ValueError):  # lost, or closed already
            self._session.deregister()
        self._session.close()
        self._client.close()

    # State.

    def state_dict(self):
        """See torch.optim.Optimizer: the daemon's state of now, of parameters that were stepped."""
        self._fetch()
        try:
            return super().state_dict()
        finally:
            self.state = collections.defaultdict(dict)

    def _fetch(self):
        """self.state as PyTorch has it, for as long as somebody looks."""
        with self._client.read_state() as state:
            tensors = statefile.read(state.buffer)
        self.state = collections.defaultdict(dict)
        for group, slots in self._slots_by_group():
            names = _MOMENTS if group["amsgrad"] else _MOMENTS[:2]
            is_double = torch.get_default_dtype() == torch.float64 and not group.get("fused")
            for slot in slots:
                step = tensors[slot.key + ".step"].item()
                if step == 0:
                    continue
                entry = {"step": torch.tensor(
                    float(step), dtype=torch.float64 if is_double else torch.float32)}
                for name in names:
                    entry[name] = tensors[f"{slot.key}.{name}"].to(slot.param.device)
                self.state[slot.param] = entry

    def _slots_by_group(self):
        first = 0
        for group in self.param_groups:
            yield group, self._slots[first : first + len(group["params"])]
            first += len(group["params"])

    def load_state_dict(self, state_dict):
        """See torch.optim.Optimizer. The daemon gets the loaded state and the parameters as they are
        here; other workers have to register again. Wrong shapes are refused, with a list."""
        groups, self._is_loading = self.param_groups, True
        try:
            super().load_state_dict(state_dict)
        except BaseException:
            self.param_groups = groups
            raise
        finally:
            self._is_loading = False
            self.state = collections.defaultdict(dict)

    def __setstate__(self, state):
        super().__setstate__(state)
        if self._is_loading:  # between PyTorch's matching and its post-hooks
            self._write(self._loaded_tensors())

    def _loaded_tensors(self):
        """All tensors of the state that PyTorch has matched and cast, those without state as zeros."""
        tensors, wrong = {}, []
        for group, slots in self._slots_by_group():
            names = _MOMENTS if group["amsgrad"] else _MOMENTS[:2]
            for slot in slots:
                entry = self.state.get(slot.param) or {}
                tensors[slot.key] = plain(slot.param.detach())
                step = float(entry["step"]) if entry else 0.0
                tensors[slot.key + ".step"] = torch.tensor(round(step), dtype=torch.int64)
                for name in names:
                    value = entry[name] if entry else torch.zeros_like(tensors[slot.key])
                    if value.shape != slot.param.shape:
                        wrong.append(f"{name} of {slot.key} is {list(value.shape)}, not "
                                     f"{list(slot.param.shape)}")
                    tensors[f"{slot.key}.{name}"] = plain(value)
        if wrong:
            raise ValueError("loaded state dict does not fit: " + "; ".join(wrong[:10]))
        return tensors

    def __getstate__(self):
        raise TypeError(f"a {type(self).__name__} is a registered worker and cannot be copied or "
                        "pickled: use its state_dict()")


class RemoteAdam(_Remote, torch.optim.Adam):
    __doc__ = "torch.optim.Adam in a daemon.\n" + _Remote.__doc__.partition("\n")[2]


class RemoteAdamW(_Remote, torch.optim.AdamW):
    __doc__ = "torch.optim.AdamW in a daemon.\n" + _Remote.__doc__.partition("\n")[2]

    _decoupled = True
