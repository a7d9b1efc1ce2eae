"""RemoteAdam when something fails: the exception says what to do, and the optimizer stays usable. And workers
behind a barrier, as processes."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
import warnings

import remote  # first: it sets the paths
import torch
from harness import Daemon, seconds
from remote import RemoteCase, backward, environment, network, twin

import adamd
from adamd.torch import RemoteAdam


class Restarted(unittest.TestCase):
    """A daemon that is killed and started anew, at the same address."""

    def setUp(self):
        torch.manual_seed(1)
        directory = tempfile.TemporaryDirectory(prefix="adamd-remote-")
        self.addCleanup(directory.cleanup)
        path = directory.name + "/socket"
        self.daemon = Daemon("--listen", "unix:" + path)
        self.addCleanup(self.daemon.discard)
        self.daemon.start()
        self.module = network()
        self.optimizer = RemoteAdam(self.module.parameters(), lr=0.1, model="m",
                                    endpoint="unix:" + path, timeout=1.0)
        self.addCleanup(self.optimizer.close)

    def step(self):
        backward(self.module)
        self.optimizer.step()

    def fail(self):
        with self.assertRaises(adamd.Error) as got:
            self.step()
        return got.exception

    def test_a_daemon_that_is_gone(self):
        self.step()
        self.daemon.kill()
        error = self.fail()
        self.assertEqual(error.reason, "CONNECTION")
        self.assertTrue(error.retriable)
        self.assertIn("step() again with the same gradients", str(error))

    def test_after_a_restart_the_model_is_made_anew(self):
        for _ in range(3):
            self.step()
        before = [p.detach().clone() for p in self.module.parameters()]
        self.daemon.kill()
        self.fail()
        self.daemon.start()
        error = self.fail()
        self.assertEqual(error.reason, "NOT_FOUND")
        self.assertIn("recover()", str(error))
        with self.assertWarnsRegex(UserWarning, "made anew"):
            self.optimizer.recover()
        for p, q in zip(self.module.parameters(), before):
            self.assertTrue(torch.equal(p, q))
        self.step()
        self.assertEqual(self.optimizer.state_dict()["state"][0]["step"], 1.0)

    def test_after_a_restart_a_checkpoint_is_where_it_was(self):
        other = twin(self.module)
        original = torch.optim.Adam(other.parameters(), lr=0.1)
        for i in range(6):
            backward(other)
            original.step()
            self.step()
            if i == 2:
                saved = self.optimizer.state_dict()
                self.daemon.kill()
                self.daemon.start()
                self.optimizer.load_state_dict(saved)
        for p, q in zip(self.module.parameters(), other.parameters()):
            torch.testing.assert_close(p, q)
        self.assertEqual(self.optimizer.state_dict()["state"][0]["step"], 6.0)


class Doubt(RemoteCase):
    """A daemon that does not answer in time may have counted the push or not."""

    def setUp(self):
        super().setUp()
        self.module = network()
        self.optimizer = self.remote(RemoteAdam, self.module.parameters(), lr=0.1, timeout=0.5)

    def stall(self):
        """A step that the daemon has received, and does not answer."""
        backward(self.module)
        self.daemon.process.send_signal(signal.SIGSTOP)
        try:
            with self.assertRaises(adamd.Error) as got:
                self.optimizer.step()
        finally:
            self.daemon.process.send_signal(signal.SIGCONT)
        self.assertTrue(got.exception.retriable, got.exception)
        return got.exception

    def test_the_same_gradients_again_count_once(self):
        error = self.stall()
        self.assertIn("with the same gradients, which counts once", str(error))
        self.optimizer.step()
        self.assertEqual(self.version(), 1)
        self.assertEqual(self.optimizer.state_dict()["state"][0]["step"], 1.0)

    def test_other_gradients_are_dropped_and_the_next_step_is_a_good_one(self):
        self.stall()
        backward(self.module)
        self.module.extra.grad.fill_(7.0)
        with self.assertRaises(adamd.Error) as got:
            self.optimizer.step()
        self.assertEqual(got.exception.reason, "IN_DOUBT")
        self.assertIn("compute again", str(got.exception))
        at = self.version()
        backward(self.module)
        self.optimizer.step()
        self.assertEqual(self.version(), at + 1)
        self.expect_the_daemons()

    def test_recover_drops_what_was_in_doubt(self):
        self.stall()
        self.optimizer.recover()
        self.expect_the_daemons()
        at = self.version()
        backward(self.module)
        self.module.extra.grad.fill_(7.0)
        self.optimizer.step()
        self.assertEqual(self.version(), at + 1)

    def expect_the_daemons(self):
        """The parameters here are those of the daemon."""
        other = network()
        self.remote(RemoteAdam, other.parameters(), worker="looks-on")
        for p, q in zip(self.module.parameters(), other.parameters()):
            self.assertTrue(torch.equal(p, q))


class Others(RemoteCase):
    """What other workers and administrators do."""

    def test_another_process_of_the_same_name_fences_this_one(self):
        modules = [network(), network()]
        first = self.remote(RemoteAdam, modules[0].parameters())
        second = self.remote(RemoteAdam, modules[1].parameters())
        backward(modules[0])
        with self.assertRaises(adamd.Error) as got:
            first.step()
        self.assertEqual((got.exception.reason, got.exception.fatal), ("FENCED", True))
        backward(modules[1])
        second.step()
        self.assertEqual(self.version(), 1)

    def test_a_state_that_was_restored_meanwhile_is_taken(self):
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters(), lr=0.1)
        backward(module)
        optimizer.step()
        state = self.rest("/state").body
        backward(module)
        optimizer.step()
        self.daemon.request("PUT", f"/v1/models/{self.name}/state", state, force="true").expect(200)
        backward(module)
        with self.assertRaises(adamd.Error) as got:
            optimizer.step()
        self.assertTrue(got.exception.wants_register)
        self.assertIn("the daemon's now", str(got.exception))
        backward(module)
        optimizer.step()
        self.assertEqual(optimizer.state_dict()["state"][0]["step"], 2.0)

    def test_a_push_that_is_stale_brings_the_parameters(self):
        modules = [network(), network()]
        policy = adamd.Policy(max_staleness=0)
        optimizers = [self.remote(RemoteAdam, module.parameters(), worker=worker, policy=policy)
                      for module, worker in zip(modules, "ab")]
        for module in modules:
            backward(module)
        optimizers[0].step()
        with self.assertRaises(adamd.Error) as got:
            optimizers[1].step()
        self.assertEqual(got.exception.reason, "STALE")
        for p, q in zip(*(module.parameters() for module in modules)):
            self.assertTrue(torch.equal(p, q))
        backward(modules[1])
        optimizers[1].step()
        self.assertEqual(self.version(), 2)

    def test_a_model_that_was_deleted(self):
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters())
        self.daemon.request("DELETE", f"/v1/models/{self.name}", force="true").expect(200)
        backward(module)
        with self.assertRaises(adamd.Error) as got:
            optimizer.step()
        self.assertEqual(got.exception.reason, "NOT_FOUND")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.recover()
        optimizer.step()
        self.assertEqual(self.version(), 1)

    def test_parameters_of_two_versions_do_not_make_a_model(self):
        """A pull that broke off is the one thing that a daemon which lost its model cannot mend."""
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters())
        optimizer._is_torn = True
        self.daemon.request("DELETE", f"/v1/models/{self.name}", force="true").expect(200)
        with self.assertRaises(adamd.Error) as got:
            optimizer.recover()
        self.assertIn("of two versions", str(got.exception))
        optimizer.load_state_dict(torch.optim.Adam(network().parameters()).state_dict())
        backward(module)
        optimizer.step()
        self.assertEqual(self.version(), 1)

    def test_one_that_was_closed(self):
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters())
        optimizer.close()
        optimizer.close()
        backward(module)
        with self.assertRaisesRegex(ValueError, "closed"):
            optimizer.step()


WORKER = """
import json, sys, torch
from adamd.torch import RemoteAdam
endpoint, model, rank, workers, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.manual_seed(rank)  # another start in each: the first one's counts
module = torch.nn.Linear(3, 1)
optimizer = RemoteAdam(module.parameters(), lr=0.1, endpoint=endpoint, model=model, rank=rank,
                       workers=workers)
data = torch.arange(24.0).reshape(8, 3) / 24
print(json.dumps([p.tolist() for p in module.parameters()]), flush=True)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
for _ in range(steps):
    optimizer.zero_grad()
    loss = (module(data[rank::workers]) ** 2).mean()
    loss.backward()
    optimizer.step()
    schedule.step()
optimizer.close()
print(json.dumps([p.tolist() for p in module.parameters()]))
"""


class Barrier(RemoteCase):
    def run_workers(self, count, steps):
        processes = [
            subprocess.Popen([sys.executable, "-c", WORKER, self.endpoint, self.name, str(rank),
                              str(count), str(steps)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=environment())
            for rank in range(count)]
        outputs = []
        for process in processes:
            output, errors = process.communicate(timeout=seconds(60))
            self.assertEqual(process.returncode, 0, errors)
            outputs.append([json.loads(line) for line in output.splitlines()])
        return outputs

    def test_two_processes_follow_one(self):
        outputs = self.run_workers(2, 10)
        self.assertEqual(outputs[0][-1], outputs[1][-1])
        self.assertEqual(self.version(), 10)
        self.assertEqual(self.model()["stepPolicy"]["trigger"], "TRIGGER_BARRIER")
        # Whoever made the model, both began with its parameters; so does one that does it all.
        self.assertEqual(outputs[0][0], outputs[1][0])
        module = torch.nn.Linear(3, 1)
        with torch.no_grad():
            for p, values in zip(module.parameters(), outputs[0][0]):
                p.copy_(torch.tensor(values))
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        data = torch.arange(24.0).reshape(8, 3) / 24
        for _ in range(10):
            optimizer.zero_grad()
            (module(data) ** 2).mean().backward()
            optimizer.step()
            schedule.step()
        self.assert_close(module.parameters(), [torch.tensor(p) for p in outputs[0][-1]])

    def test_many_that_begin_at_once_make_one_model(self):
        outputs = self.run_workers(3, 0)
        self.assertEqual(outputs[0], outputs[1])
        self.assertEqual(outputs[0], outputs[2])

    def test_parameters_that_are_edited_in_one_worker_are_an_error(self):
        module = network()
        optimizer = self.remote(RemoteAdam, module.parameters(), rank=0, workers=2)
        backward(module)
        with torch.no_grad():
            module.extra.zero_()
        with self.assertRaisesRegex(RuntimeError, "put_parameters"):
            optimizer.step()
        self.assertEqual(self.version(), 0)

    def test_a_worker_that_left_is_not_waited_for(self):
        modules = [network(), network()]
        optimizers = [None, None]

        def join(i):
            optimizers[i] = self.remote(RemoteAdam, modules[i].parameters(), rank=i,
                                        policy=adamd.Policy(trigger="BARRIER"), worker=f"w{i}")

        for i in range(2):
            join(i)
        for module in modules:
            backward(module)
        threads = [threading.Thread(target=optimizer.step) for optimizer in optimizers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds(20))
        self.assertEqual(self.version(), 1)
        optimizers[1].close()
        backward(modules[0])
        optimizers[0].step()
        self.assertEqual(self.version(), 2)


if __name__ == "__main__":
    unittest.main()
