"""A push counts once: whatever is repeated, cut off, reordered or sent under an old name."""

import random
import time
import unittest

import tensors
from harness import Background, DaemonTest, eventually, seconds

SHAPES = {"w": [3], "b": [1]}
START = {"w": [1, 2, 3], "b": [0.5]}
GRAD = [0.1, -0.2, 0.3, 0.4]
OTHER = [9, 9, 9, 9]


class ExactlyOnce(DaemonTest):
    def setUp(self):
        self.model = self.daemon.create_model(self.name, SHAPES, start=START)

    def test_a_repeated_push_is_given_its_first_answer(self):
        worker = self.model.register("w0")
        first = worker.push(GRAD).expect(200).json()
        self.assertFalse(first.pop("duplicate"))
        worker.push(OTHER).expect(200)
        before = self.model.digest()
        again = worker.push(GRAD, sequence=1).expect(200).json()
        self.assertTrue(again.pop("duplicate"))
        self.assertEqual(first, again)
        self.assertEqual(before, self.model.digest())
        self.assertEqual(self.model.counts()["duplicate"], 1)
        self.assertEqual(self.model.counts()["applied"], 2)

    def test_other_bytes_under_a_used_number_are_refused(self):
        worker = self.model.register("w0")
        data, other = (tensors.to_bytes(tensors.floats(v)) for v in (GRAD, OTHER))
        worker.push(data, crc32c=tensors.crc32c(data)).expect(200)
        self.assert_untouched(self.model, lambda: worker.push(
            other, sequence=1, crc32c=tensors.crc32c(other)).expect(422, "SEQ_REUSED"))
        again = worker.push(data, sequence=1, crc32c=tensors.crc32c(data)).expect(200)
        self.assertTrue(again.json()["duplicate"])

    def test_a_repeat_from_long_ago_is_said_to_be_decided(self):
        worker = self.model.register("w0")
        for _ in range(17):
            worker.push(GRAD).expect(200)
        self.assert_untouched(
            self.model, lambda: worker.push(GRAD, sequence=1).expect(409, "ALREADY_DECIDED"))
        self.assertTrue(worker.push(GRAD, sequence=2).expect(200).json()["duplicate"])

    def test_a_gap_is_refused_and_the_expected_number_told(self):
        worker = self.model.register("w0")
        worker.push(GRAD).expect(200)
        reply = worker.push(GRAD, sequence=3).expect(409, "OUT_OF_ORDER")
        self.assertEqual(reply.metadata.get("expected"), "2")
        self.assertEqual(self.model.version, 1)

    def test_sequences_start_at_one(self):
        worker = self.model.register("w0")
        reply = worker.push(GRAD, sequence=0).expect(400, "BAD_FIELD")
        self.assertEqual(reply.fields, ["sequence"])

    def test_an_older_epoch_is_fenced_and_a_newer_one_is_a_bug(self):
        old = self.model.register("w0")
        new = self.model.register("w0")
        self.assertGreater(new.epoch, old.epoch)
        old.push(GRAD).expect(409, "FENCED")
        old.renew().expect(409, "FENCED")
        new.push(GRAD).expect(200)
        new.push(GRAD, epoch=new.epoch + 1).expect(400, "BAD_EPOCH")
        self.assertEqual(self.model.version, 1)

    def test_an_unknown_worker_must_register(self):
        worker = self.model.register("w0")
        worker.push(GRAD, worker="nobody").expect(404, "UNKNOWN_WORKER")

    def test_the_same_nonce_gets_the_same_epoch(self):
        first = self.model.register("w0", nonce="n1")
        self.assertEqual(self.model.register("w0", nonce="n1").epoch, first.epoch)
        self.assertGreater(self.model.register("w0", nonce="n2").epoch, first.epoch)

    def test_registering_tells_what_the_epoch_before_did_last(self):
        worker = self.model.register("w0")
        worker.push(GRAD).expect(200)
        worker.push(GRAD).expect(200)
        said = self.daemon.post(self.model.path + "/workers", worker_id="w0").expect(200).json()
        self.assertEqual(int(said["worker"]["lastSequence"]), 2)
        self.assertEqual(int(said["worker"]["lastVersion"]), 2)
        self.assertEqual(said["worker"]["lastOutcome"], "PUSH_OUTCOME_APPLIED")

    def test_a_foreign_generation_is_told_that_the_model_was_restored(self):
        worker = self.model.register("w0")
        reply = worker.push(GRAD, generation=worker.generation + 1)
        reply.expect(412, "RUN_RESTORED")
        worker.push(GRAD, generation=worker.generation).expect(200)

    def test_a_restore_ends_all_epochs_and_raises_the_generation(self):
        worker = self.model.register("w0")
        worker.push(GRAD).expect(200)
        self.model.put_parameters(START)
        self.assertEqual(self.model.generation, worker.generation + 1)
        refused = worker.push(GRAD)
        self.assertIn(refused.reason, ("RUN_RESTORED", "UNKNOWN_WORKER", "FENCED"))
        worker.push(GRAD, generation=worker.generation).expect(412, "RUN_RESTORED")
        self.model.register("w0").push(GRAD).expect(200)

    def test_a_base_version_from_the_future_is_refused(self):
        worker = self.model.register("w0")
        worker.push(GRAD, base_version=1).expect(409, "FUTURE_VERSION")
        worker.push(GRAD, base_version=0).expect(200)

    def test_a_worker_that_saw_more_than_the_daemon_has_is_told(self):
        reply = self.daemon.post("/adamd.v1.TrainingService/RegisterWorker", {
            "parent": f"models/{self.model.name}", "workerId": "w0",
            "generation": str(self.model.generation), "acknowledgedVersion": "7"})
        self.assertEqual(reply.reason, "STATE_BEHIND", reply)

    def test_what_is_refused_uses_no_number_and_leaves_no_trace(self):
        worker = self.model.register("w0")
        data = tensors.to_bytes(tensors.floats(GRAD))
        bad = {
            "NONFINITE": lambda: worker.push([1, float("nan"), 1, 1]),
            "LAYOUT_MISMATCH": lambda: worker.push(data[:-4]),
            "CRC_MISMATCH": lambda: worker.push(data, crc32c=tensors.crc32c(data) ^ 1),
        }
        for reason, call in bad.items():
            with self.subTest(reason):
                self.assert_untouched(self.model, lambda call=call, r=reason: call().expect(422, r))
        self.assertEqual(worker.push(GRAD).expect(200).json()["sequence"], "1")
        self.assertEqual(self.model.counts()["rejected"], 3)

    def test_a_push_that_is_cut_off_leaves_its_number_free(self):
        worker = self.model.register("w0")
        for sent in (0, 1, 15):
            with self.subTest(bytes=sent):
                with self.daemon.socket() as connected:
                    connected.sendall(head(worker, 16) + b"\0" * sent)
        eventually(lambda: self.model.counts()["aborted"] == 3)
        worker.push(GRAD).expect(200)
        self.assertEqual(self.model.version, 1)

    def test_an_answer_that_nobody_reads_is_given_again(self):
        worker = self.model.register("w0")
        data = tensors.to_bytes(tensors.floats(GRAD))
        for sequence in range(1, 21):
            with self.daemon.socket() as connected:
                connected.sendall(head(worker, len(data), sequence) + data)
            reply = eventually(lambda s=sequence: decided(worker.push(data, sequence=s)))
            self.assertEqual(int(reply.json()["version"]), sequence)
        self.assertEqual(self.model.version, 20)

    def test_a_push_under_an_old_epoch_is_not_applied_after_the_new_one_exists(self):
        old = self.model.register("w0")
        data = tensors.to_bytes(tensors.floats(OTHER))
        with self.daemon.socket() as connected:
            connected.sendall(head(old, len(data)) + data[:8])
            eventually(lambda: self.model.worker("w0").status == 200)
            new = self.model.register("w0")
            connected.sendall(data[8:])
            answer = connected.recv(65536)
        self.assertNotIn(b" 200 ", answer.split(b"\r\n")[0])
        self.assertEqual(self.model.version, 0)
        self.assertEqual(new.push(GRAD).expect(200).json()["version"], "1")

    def test_one_push_on_many_connections_counts_once(self):
        worker = self.model.register("w0")
        for sequence in range(1, 6):
            calls = [Background(worker.push, GRAD, sequence=sequence) for _ in range(6)]
            replies = [call.result() for call in calls]
            good = [r for r in replies if r.status == 200]
            self.assertTrue(good, replies)
            for reply in replies:
                if reply.status != 200:
                    self.assertIn(reply.status, (409, 429, 503), reply)
            self.assertEqual({r.json()["version"] for r in good}, {str(sequence)})
        self.assertEqual(self.model.version, 5)

    def test_one_name_registered_again_and_again_is_slowed_down(self):
        last = None
        for _ in range(12):
            last = self.daemon.post(self.model.path + "/workers", worker_id="w0")
            if last.status != 200:
                break
        last.expect(429, "WORKER_BUSY")
        self.assertIn("retry-after", last.headers)

    def test_a_deregistered_worker_is_not_taken_for_live(self):
        worker = self.model.register("w0")
        worker.deregister().expect(200)
        self.assertIn(worker.push(GRAD).reason, ("UNKNOWN_WORKER", "FENCED"))
        self.assertEqual(int(self.model.get().get("liveWorkers", 0)), 0)
        again = self.model.register("w0")
        self.assertGreater(again.epoch, worker.epoch)

    def test_a_storm_of_cuts_and_repeats_counts_every_push_once(self):
        workers = [self.model.register(f"w{i}") for i in range(4)]
        tallies = [Background(storm, self.daemon, w, 25, seed) for seed, w in enumerate(workers)]
        for tally in tallies:
            self.assertEqual(tally.result(60), 25)
        self.assertEqual(self.model.version, 100)
        self.assertEqual(self.model.counts()["applied"], 100)
        seen = [(c["worker"], c["epoch"], c["sequence"])
                for r in self.model.all_records() for c in r["contributions"]]
        self.assertEqual(len(seen), len(set(seen)))
        wanted = {(w.name, str(w.epoch), str(s)) for w in workers for s in range(1, 26)}
        self.assertEqual(set(seen), wanted)


class RestoredInFlight(DaemonTest):
    def test_pushes_that_wait_are_told_of_a_restore(self):
        policy = {"trigger": "TRIGGER_BARRIER"}
        model = self.daemon.create_model(self.name, SHAPES, policy, start=START)
        waiting, missing = model.register("w0"), model.register("w1")
        waiting.stage(GRAD)
        call = Background(waiting.push, GRAD)
        time.sleep(seconds(0.1))
        model.put_parameters(START)
        call.result().expect(412, "RUN_RESTORED")
        self.assertNotEqual(missing.push(GRAD).status, 200)
        self.assertEqual(model.version, 0)


def head(worker, size, sequence=None):
    """The head of a push, as bytes."""
    return (f"POST {worker.target(sequence)} HTTP/1.1\r\nHost: test\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n").encode()


def decided(reply):
    """The reply, if it is final; a push that is still on its way is asked for again."""
    if reply.status == 200:
        return reply
    assert reply.status in (409, 429, 503, 504), reply
    return None


def storm(daemon, worker, count, seed):
    """Pushes `count` gradients; about half of the attempts are cut at a random byte."""
    chance = random.Random(seed)
    data = tensors.to_bytes(tensors.floats(GRAD))
    versions = set()
    for sequence in range(1, count + 1):
        whole = head(worker, len(data), sequence) + data
        while chance.random() < 0.5:
            with daemon.socket() as connected:
                connected.sendall(whole[: chance.randrange(len(whole) + 1)])
        reply = eventually(lambda s=sequence: decided(worker.push(data, sequence=s)), 20)
        versions.add(reply.json()["version"])
    return len(versions)


if __name__ == "__main__":
    unittest.main()
