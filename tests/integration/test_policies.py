"""How pushes become steps: EACH_PUSH, BARRIER and MANUAL, compared with torch.optim.Adam bit for bit."""

import signal
import time
import unittest

import tensors
from adam import Adam, weighted_mean
from harness import Background, DaemonTest, eventually, seconds

SHAPES = {"fc.weight": [2, 3], "fc.bias": [2], "scale": []}
START = {"fc.weight": [0.5, -1.25, 2, 0.125, -3, 1e-3], "fc.bias": [0.1, -0.2], "scale": [1.5]}
KEYS = tuple(SHAPES)


def gradient(seed):
    """Different for each seed, and not round in binary."""
    return {k: [((seed * 7 + i * 3 + len(k)) % 11 - 5) / 7 for i in range(len(START[k]))]
            for k in KEYS}


def flat(values):
    return [x for key in KEYS for x in values[key]]


def unflat(values):
    """{key: values} of a flat list."""
    result, at = {}, 0
    for key in KEYS:
        result[key] = values[at : at + len(START[key])]
        at += len(START[key])
    return result


class PolicyTest(DaemonTest):
    policy = {}

    def make(self, policy=None, **options):
        return self.daemon.create_model(
            self.name, SHAPES, {**self.policy, **(policy or {})}, start=START, **options)

    def assert_state(self, model, reference):
        """Parameters, moments and steps, bit for bit."""
        read, _ = tensors.read_safetensors(model.get_state().body)
        for key in KEYS:
            self.assertEqual(read[key][1], reference.params[key], key)
            self.assertEqual(read[key + ".exp_avg"][1], reference.exp_avg[key], key)
            self.assertEqual(read[key + ".exp_avg_sq"][1], reference.exp_avg_sq[key], key)
            self.assertEqual(list(read[key + ".step"][1]), [reference.steps[key]], key)
            if reference.options["amsgrad"]:
                self.assertEqual(read[key + ".max_exp_avg_sq"][1], reference.max_exp_avg_sq[key])


class EachPush(PolicyTest):
    policy = {"trigger": "TRIGGER_EACH_PUSH"}

    def test_each_push_is_a_step_of_adam(self):
        for name, options in {
            "plain": {}, "lr": {"lr": 0.05, "eps": 1e-4}, "betas": {"betas": [0.3, 0.9]},
            "l2": {"weight_decay": 0.01}, "amsgrad": {"amsgrad": True},
            "adamw": {"weight_decay": 0.1, "decoupled_weight_decay": True},
            "maximize": {"maximize": True, "weight_decay": 0.1},
        }.items():
            with self.subTest(name):
                model = self.daemon.create_model("each-" + name, SHAPES, start=START, **options)
                reference, worker = Adam(START, **options), model.register("w0")
                for step in range(1, 8):
                    reply = worker.push(flat(gradient(step))).expect(200).json()
                    self.assertEqual(reply["version"], str(step))
                    reference.step(gradient(step))
                self.assert_state(model, reference)

    def test_a_parameter_without_gradient_is_skipped_and_one_with_zeros_is_not(self):
        model, reference = self.make(), Adam(START)
        worker = model.register("w0")
        for grads in ({"fc.bias": [1, -1]}, {"scale": [0.0]}, {"fc.bias": [0, 0], "scale": [2]}):
            worker.push(grads).expect(200)
            reference.step(grads)
        self.assert_state(model, reference)
        self.assertEqual(reference.steps, {"fc.weight": 0, "fc.bias": 2, "scale": 2})

    def test_groups_have_options_of_their_own(self):
        groups = [{"params": ["fc.bias"], "options": {"lr": 0.1}},
                  {"params": ["scale", "fc.weight"], "options": {"betas": [0.5, 0.9]}}]
        model = self.daemon.create_model(self.name, SHAPES, groups=groups, start=START, lr=0.01)
        one = Adam({"fc.bias": START["fc.bias"]}, lr=0.1)
        two = Adam({k: START[k] for k in ("scale", "fc.weight")}, lr=0.01, betas=(0.5, 0.9))
        worker = model.register("w0")
        for step in range(4):
            worker.push(flat(gradient(step))).expect(200)
            one.step({"fc.bias": gradient(step)["fc.bias"]})
            two.step({k: gradient(step)[k] for k in ("scale", "fc.weight")})
        self.assertEqual(model.parameters(), {**one.params, **two.params})

    def test_a_changed_learning_rate_holds_from_the_next_step(self):
        model, reference = self.make(), Adam(START)
        worker = model.register("w0")
        worker.push(flat(gradient(1))).expect(200)
        reference.step(gradient(1))
        model.patch({"defaults": {"lr": 0.25}}).expect(200)
        reference.options["lr"] = 0.25
        worker.push(flat(gradient(2))).expect(200)
        reference.step(gradient(2))
        self.assert_state(model, reference)
        self.assertEqual([r["lr"] for r in model.records()], [0.001, 0.25])

    def test_a_gradient_that_is_too_old_is_stale_and_uses_its_number(self):
        model = self.make({"maxStaleness": "1"})
        slow, fast = model.register("slow"), model.register("fast")
        for _ in range(2):
            fast.push(flat(gradient(1))).expect(200)
        reply = self.assert_untouched(
            model, lambda: slow.push(flat(gradient(1)), base_version=0).expect(409, "STALE"))
        self.assertEqual(reply.metadata.get("current_version"), "2")
        again = slow.push(flat(gradient(1)), sequence=1, base_version=0)
        self.assertEqual(again.reason or again.outcome, "STALE")
        fresh = slow.push(flat(gradient(1)), base_version=1).expect(200).json()
        self.assertEqual((fresh["sequence"], fresh["staleness"]), ("2", "1"))
        self.assertEqual(model.counts()["stale"], 1)

    def test_records_tell_how_each_version_came_about(self):
        model = self.make()
        worker = model.register("w7", rank=7)
        worker.push(flat(gradient(1)), base_version=0, **{"metric.loss": 2.5}).expect(200)
        worker.push(flat(gradient(2)), base_version=0, **{"metric.loss": 1.5}).expect(200)
        first, second = model.records()
        self.assertEqual((first["version"], second["version"]), ("1", "2"))
        (entry,) = second["contributions"]
        self.assertEqual((entry["worker"], entry["sequence"], entry["staleness"]), ("w7", "2", "1"))
        self.assertEqual(second["metrics"], [{"key": "loss", "value": 1.5}])
        norm = sum(tensors.floats([g])[0] ** 2 for g in flat(gradient(2))) ** 0.5
        self.assertAlmostEqual(second["gradNorm"], norm, places=6)
        self.assertEqual(model.records(after=1), [second])

    def test_a_gradient_that_is_not_finite_is_refused_skipped_or_let_in_as_asked(self):
        for bad in ("nan", "inf", "-inf"):
            grad = [float(bad)] + flat(gradient(1))[1:]
            with self.subTest(bad):
                model = self.daemon.create_model(
                    "skip" + bad, SHAPES, {"nonfinite": "NONFINITE_SKIP"}, start=START)
                worker = model.register("w0")
                before = model.parameters()
                reply = worker.push(grad).expect(200)
                self.assertEqual(reply.outcome, "SKIPPED_NONFINITE")
                self.assertEqual((model.version, model.parameters()), (0, before))
                self.assertEqual(worker.push(flat(gradient(1))).expect(200).json()["sequence"], "2")
                self.assertEqual(model.counts()["skipped"], 1)
                model.patch({"stepPolicy": {"nonfinite": "NONFINITE_REJECT"}}).expect(200)
                worker.push(grad).expect(422, "NONFINITE")
                model.patch({"stepPolicy": {"nonfinite": "NONFINITE_ALLOW"}}).expect(200)
                self.assertEqual(worker.push(grad).expect(200).outcome, "APPLIED")
                weight = model.parameters()["fc.weight"]
                self.assertNotEqual(weight[0], weight[0])

    def test_pause_refuses_pushes_and_still_answers_pulls(self):
        model = self.make()
        worker = model.register("w0")
        self.daemon.post(model.path + ":pause").expect(200)
        worker.push(flat(gradient(1))).expect(503, "PAUSED")
        model.pull().expect(200)
        self.daemon.post(model.path + ":resume").expect(200)
        worker.push(flat(gradient(1))).expect(200)

    def test_a_model_without_parameters_takes_no_push(self):
        model = self.daemon.create_model(self.name, SHAPES)
        worker = self.daemon.post(model.path + "/workers", worker_id="w0")
        if worker.status == 200:
            asked = {"Content-Type": "application/octet-stream"}
            self.daemon.post(model.path + "/gradients", b"\0" * 36, headers=asked, worker="w0",
                             epoch=1, sequence=1).expect(409, "INITIALIZING")
        else:
            worker.expect(409, "INITIALIZING")
        model.pull().expect(409, "INITIALIZING")


class Barrier(PolicyTest):
    policy = {"trigger": "TRIGGER_BARRIER"}

    def crew(self, model, count):
        return [model.register(f"w{i}", rank=i) for i in range(count)]

    def test_a_round_is_the_mean_in_ascending_rank_whatever_the_order_of_arrival(self):
        model, reference = self.make(), Adam(START)
        crew = self.crew(model, 3)
        for step, order in enumerate(((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0))):
            grads = [flat(gradient(step * 3 + rank)) for rank in range(3)]
            for rank in order[:-1]:
                crew[rank].stage(grads[rank])
            last = crew[order[-1]].push(grads[order[-1]]).expect(200).json()
            self.assertEqual((last["version"], last["contributors"]), (str(step + 1), 3))
            for rank in order[:-1]:
                reply = crew[rank].push(grads[rank]).expect(200).json()
                self.assertEqual(reply["version"], last["version"])
            reference.step(unflat(weighted_mean([(1, g) for g in grads])))
        self.assert_state(model, reference)
        names = [c["worker"] for c in model.records()[1]["contributions"]]
        self.assertEqual(names, ["w0", "w1", "w2"])

    def test_weights_count_in_the_mean(self):
        model, reference = self.make(), Adam(START)
        crew = self.crew(model, 3)
        grads, weights = [flat(gradient(i)) for i in range(3)], (1, 2.5, 32)
        for rank in (2, 1):
            crew[rank].stage(grads[rank], weight=weights[rank])
        crew[0].push(grads[0], weight=weights[0]).expect(200)
        reference.step(unflat(weighted_mean(list(zip(weights, grads)))))
        self.assert_state(model, reference)
        self.assertEqual(model.records()[0]["weight"], 35.5)

    def test_a_parameter_is_averaged_over_those_who_have_a_gradient_for_it(self):
        model = self.make()
        one, two, three = self.crew(model, 3)
        one.stage({"fc.bias": [1, 2]})
        two.stage({"fc.bias": [3, 6], "scale": [4]})
        three.push({"fc.bias": [5, 1]}).expect(200)
        steps = {k: v[1][0] for k, v in
                 tensors.read_safetensors(model.get_state().body)[0].items()
                 if k.endswith(".step")}
        self.assertEqual(steps, {"fc.weight.step": 0, "fc.bias.step": 1, "scale.step": 1})

    def test_all_who_wait_are_answered_when_the_round_closes(self):
        model = self.make()
        crew = self.crew(model, 4)
        calls = [Background(w.push, flat(gradient(0))) for w in crew[:-1]]
        time.sleep(seconds(0.1))
        self.assertFalse(any(call.done() for call in calls))
        crew[-1].push(flat(gradient(0))).expect(200)
        self.assertEqual({c.result().expect(200).json()["version"] for c in calls}, {"1"})

    def test_the_deadline_closes_a_round_that_has_its_quorum(self):
        model = self.make({"quorum": 2, "deadline": f"{seconds(0.3):g}s"})
        one, two, late = self.crew(model, 3)
        begun = time.monotonic()
        calls = [Background(w.push, flat(gradient(0)), base_version=0) for w in (one, two)]
        replies = [call.result().expect(200).json() for call in calls]
        self.assertGreater(time.monotonic() - begun, seconds(0.25))
        self.assertEqual({(r["version"], r["contributors"]) for r in replies}, {("1", 2)})
        reply = late.push(flat(gradient(0)), base_version=0)
        self.assertEqual(reply.reason or reply.outcome, "STALE")
        self.assertEqual(model.version, 1)

    def test_the_deadline_does_not_close_a_round_below_its_quorum(self):
        model = self.make({"quorum": 2, "deadline": "0.05s"})
        one, two, _ = self.crew(model, 3)
        one.stage(flat(gradient(0)), wait_ms=200)
        self.assertEqual(model.version, 0)
        two.push(flat(gradient(0))).expect(200)
        self.assertEqual(model.version, 1)

    def test_a_dead_worker_holds_a_round_no_longer_than_its_lease(self):
        lease = seconds(0.5)
        model = self.make({"lease": f"{lease:g}s"})
        one, two, dead = self.crew(model, 3)
        dead.renew().expect(200)
        begun = time.monotonic()
        calls = [Background(w.push, flat(gradient(i))) for i, w in enumerate((one, two))]
        replies = [call.result().expect(200).json() for call in calls]
        took = time.monotonic() - begun
        self.assertEqual({(r["version"], r["contributors"]) for r in replies}, {("1", 2)})
        self.assertGreater(took, lease / 2)
        self.assertLess(took, lease + seconds(0.5))

    def test_waiting_keeps_a_worker_alive(self):
        model = self.make({"lease": f"{seconds(0.3):g}s"})
        one, two = self.crew(model, 2)
        call = Background(one.push, flat(gradient(0)))
        for _ in range(9):
            time.sleep(seconds(0.1))
            two.renew().expect(200)
        self.assertFalse(call.done())
        two.push(flat(gradient(1))).expect(200)
        self.assertEqual(call.result().expect(200).json()["contributors"], 2)

    def test_a_worker_that_leaves_frees_the_round(self):
        model = self.make()
        one, two, leaving = self.crew(model, 3)
        calls = [Background(w.push, flat(gradient(0))) for w in (one, two)]
        time.sleep(seconds(0.1))
        leaving.deregister().expect(200)
        for call in calls:
            self.assertEqual(call.result().expect(200).json()["contributors"], 2)

    def test_a_worker_that_registers_anew_drops_what_it_had_staged(self):
        model, reference = self.make(), Adam(START)
        one, two = self.crew(model, 2)
        one.stage([9] * 9)
        again = model.register("w0")
        two.stage(flat(gradient(2)))
        again.push(flat(gradient(1))).expect(200)
        reference.step(unflat(weighted_mean([(1, flat(gradient(1))), (1, flat(gradient(2)))])))
        self.assert_state(model, reference)
        self.assertEqual(again.info().get("rank"), one.info().get("rank"))
        (record,) = model.records()
        self.assertEqual(record["contributions"][0]["epoch"], str(again.epoch))

    def test_a_worker_that_joins_is_waited_for_from_the_next_round_at_the_latest(self):
        model = self.make()
        one, two = self.crew(model, 2)
        one.stage(flat(gradient(0)))
        joined = model.register("w9")
        calls = [Background(one.push, flat(gradient(0))), Background(two.push, flat(gradient(0)))]
        time.sleep(seconds(0.1))
        first = Background(joined.push, flat(gradient(0)))
        for call in calls:
            call.result().expect(200)
        calls = [Background(w.push, flat(gradient(1))) for w in (one, two)]
        if first.result(5).json()["version"] == "1":
            joined.push(flat(gradient(1))).expect(200)
        for call in calls:
            self.assertEqual(call.result().expect(200).json()["version"], "2")

    def test_no_round_closes_below_the_least_number_of_workers(self):
        model = self.make({"minWorkers": 2})
        (one,) = self.crew(model, 1)
        one.stage(flat(gradient(0)), wait_ms=100)
        self.assertEqual(model.version, 0)
        call = Background(one.push, flat(gradient(0)))
        model.register("w1").push(flat(gradient(1))).expect(200)
        call.result().expect(200)

    def test_a_client_that_waits_no_longer_finds_its_push_where_it_left_it(self):
        model = self.make()
        one, two = self.crew(model, 2)
        begun = time.monotonic()
        one.push(flat(gradient(0)), headers={"Request-Timeout-Ms": "200"}).expect(
            504, "STILL_STAGED")
        self.assertGreater(time.monotonic() - begun, 0.15)
        call = Background(one.push, flat(gradient(0)))
        two.push(flat(gradient(1))).expect(200)
        self.assertEqual(call.result().expect(200).json()["version"], "1")
        self.assertEqual(one.sequence, 1)

    def test_a_policy_that_changes_decides_the_open_round(self):
        model = self.make()
        one, _, _ = self.crew(model, 3)
        one.stage(flat(gradient(0)))
        model.patch({"stepPolicy": {"quorum": 1, "deadline": "0.05s"}}).expect(200)
        reply = one.push(flat(gradient(0))).expect(200).json()
        self.assertEqual((reply["version"], reply["contributors"]), ("1", 1))

    def test_a_poisoned_push_fails_alone(self):
        model = self.make()
        good, bad = self.crew(model, 2)
        call = Background(good.push, flat(gradient(0)))
        bad.push([float("nan")] * 9).expect(422, "NONFINITE")
        self.assertFalse(call.done())
        bad.push(flat(gradient(1))).expect(200)
        self.assertEqual(call.result().expect(200).json()["contributors"], 2)

    def test_a_rank_belongs_to_one_worker(self):
        model = self.make()
        model.register("w0", rank=3)
        reply = self.daemon.post(model.path + "/workers", worker_id="w1", rank=3)
        reply.expect(409, "EXISTS")

    def test_a_daemon_that_stood_still_expels_nobody(self):
        lease = seconds(1)
        model = self.make({"lease": f"{lease:g}s"})
        one, two = self.crew(model, 2)
        stop_for(self.daemon, 2 * lease)
        call = Background(one.push, flat(gradient(0)))
        time.sleep(lease / 10)
        self.assertFalse(call.done(), "the other worker was expelled by the daemon's own pause")
        two.push(flat(gradient(1))).expect(200)
        self.assertEqual(call.result().expect(200).json()["contributors"], 2)


class Manual(PolicyTest):
    policy = {"trigger": "TRIGGER_MANUAL"}

    def test_gradients_accumulate_until_they_are_zeroed(self):
        model, reference = self.make(), Adam(START)
        worker = model.register("w0")
        for seed in (1, 2):
            self.assertEqual(worker.push(flat(gradient(seed))).expect(200).outcome, "STAGED")
        total = added(gradient(1), gradient(2))
        for version in ("1", "2"):  # the gradient stays, as in PyTorch
            record = model.step().expect(200).json()["record"]
            self.assertEqual(record["version"], version)
            reference.step(total)
        model.zero_grad().expect(200)
        worker.push({"scale": [3]}).expect(200)
        model.step().expect(200)
        reference.step({"scale": [3]})
        self.assert_state(model, reference)

    def test_without_any_gradient_there_is_no_version(self):
        model = self.make()
        reply = self.assert_untouched(model, model.step).expect(200).json()
        self.assertEqual(int(reply.get("record", {}).get("version", 0)), 0)

    def test_zeros_are_stepped_and_none_is_not(self):
        model, reference = self.make(), Adam(START)
        worker = model.register("w0")
        worker.push(flat(gradient(1))).expect(200)
        model.step().expect(200)
        reference.step(gradient(1))
        model.zero_grad({"setToNone": False}).expect(200)
        model.step().expect(200)
        reference.step({k: [0] * len(v) for k, v in START.items()})
        model.zero_grad({"setToNone": True}).expect(200)
        model.step().expect(200)
        self.assert_state(model, reference)

    def test_a_push_may_replace_what_is_accumulated(self):
        model, reference = self.make(), Adam(START)
        worker = model.register("w0")
        worker.push(flat(gradient(1))).expect(200)
        worker.push({"scale": [2]}, replace="true").expect(200)
        model.step().expect(200)
        reference.step({**gradient(1), "scale": [2]})  # those that were not pushed stay
        self.assert_state(model, reference)

    def test_a_step_with_an_expected_version_happens_once(self):
        model = self.make()
        model.register("w0").push(flat(gradient(1))).expect(200)
        first = model.step({"expectedVersion": "0"}).expect(200).json()
        again = model.step({"expectedVersion": "0"}).expect(200).json()
        self.assertTrue(again.pop("duplicate"))
        self.assertEqual(first["record"], again["record"])
        self.assertEqual(model.version, 1)
        reply = model.step({"expectedVersion": "9"})
        self.assertEqual(reply.reason, "ETAG_MISMATCH", reply)

    def test_options_may_be_given_for_one_step(self):
        model, reference = self.make(), Adam(START)
        model.register("w0").push(flat(gradient(1))).expect(200)
        model.step({"options": {"lr": 0.5}}).expect(200)
        reference.options["lr"] = 0.5
        reference.step(gradient(1))
        model.step().expect(200)
        reference.options["lr"] = 0.001
        reference.step(gradient(1))
        self.assert_state(model, reference)

    def test_only_a_manual_model_is_stepped_by_hand(self):
        model = self.daemon.create_model(self.name, SHAPES, start=START)
        reply = self.assert_untouched(model, model.step)
        self.assertEqual((reply.status, reply.reason), (400, "BAD_FIELD"))

    def test_a_repeated_push_accumulates_once(self):
        model, reference = self.make(), Adam(START)
        worker = model.register("w0")
        worker.push(flat(gradient(1))).expect(200)
        self.assertTrue(worker.push(flat(gradient(1)), sequence=1).expect(200).json()["duplicate"])
        model.step().expect(200)
        reference.step(gradient(1))
        self.assert_state(model, reference)


class Switching(PolicyTest):
    def test_a_model_goes_from_one_policy_to_another_while_it_runs(self):
        model, reference = self.make(), Adam(START)
        worker = model.register("w0")
        worker.push(flat(gradient(1))).expect(200)
        model.patch({"stepPolicy": {"trigger": "TRIGGER_MANUAL"}}).expect(200)
        self.assertEqual(worker.push(flat(gradient(2))).expect(200).outcome, "STAGED")
        model.step().expect(200)
        model.zero_grad().expect(200)
        model.patch({"stepPolicy": {"trigger": "TRIGGER_BARRIER"}}).expect(200)
        worker.push(flat(gradient(3))).expect(200)
        for seed in (1, 2, 3):
            reference.step(gradient(seed))
        self.assert_state(model, reference)

    def test_a_bad_policy_changes_nothing(self):
        model = self.make()
        before = model.get()
        for field, policy in {
            "step_policy.deadline": {"deadline": "-1s"},
            "step_policy.lease": {"lease": "0.0000001s"},
            "step_policy.trigger": {"trigger": "TRIGGER_SOMETIMES"},
            "step_policy.quorum": {"quorum": -1},
        }.items():
            with self.subTest(field):
                reply = model.patch({"stepPolicy": policy}).expect(400)
                self.assertTrue(any(field.split(".")[1] in f for f in reply.fields), reply)
        after = model.get()
        self.assertEqual(before["stepPolicy"], after["stepPolicy"])


def added(one, two):
    """As backward() adds: each sum rounded to float32."""
    return {k: tensors.floats(a + b for a, b in zip(tensors.floats(one[k]), tensors.floats(two[k])))
            for k in one}


def stop_for(daemon, duration):
    """The daemon stands still, as under a debugger or in a paused machine."""
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(duration)
    daemon.process.send_signal(signal.SIGCONT)
    eventually(lambda: daemon.get("/livez").status == 200)


if __name__ == "__main__":
    unittest.main()
