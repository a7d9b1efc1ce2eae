"""What workers were told of their pushes, and whether the daemon's records say the same."""

import collections
import threading


class Ledger:
    """Of one model."""

    def __init__(self):
        self.lock = threading.Lock()
        self.versions = {}  # (worker, epoch, sequence) -> version, as answered
        self.doubts = set()  # sent whole, and nobody heard the answer
        self.outcomes = collections.Counter()
        self.refusals = collections.Counter()
        self.records = {}  # version -> contributions
        self.skipped = 0
        self.twice = []

    @staticmethod
    def key(worker, sequence):
        return (worker.name, worker.epoch, sequence)

    def decided(self, worker, sequence, reply):
        with self.lock:
            if reply.status != 200:
                self.outcomes["STALE"] += 1
                return
            said = reply.json()
            outcome = reply.outcome
            self.outcomes[outcome] += 1
            if outcome == "APPLIED":
                self.versions[self.key(worker, sequence)] = int(said["version"])

    def doubt(self, worker, sequence):
        with self.lock:
            self.doubts.add(self.key(worker, sequence))

    def refused(self, reply):
        assert reply.status in (400, 413, 422), reply
        with self.lock:
            self.refusals[reply.reason] += 1

    def read_records(self, model):
        after = max(self.records, default=0)
        while page := model.records(after=after, page_size=500):
            for record in page:
                if record.get("skipped"):
                    continue
                version = int(record["version"])
                if version in self.records:
                    self.twice.append(version)
                self.records[version] = [
                    (c["worker"], int(c["epoch"]), int(c["sequence"]))
                    for c in record.get("contributions", ())]
                after = max(after, version)
            if all(record.get("skipped") for record in page):
                break

    def check(self, model):
        """What is wrong, as texts."""
        wrong = [f"version {v} has two records" for v in self.twice]
        recorded = {}
        for version, keys in self.records.items():
            for key in keys:
                if key in recorded:
                    wrong.append(f"{key} is in versions {recorded[key]} and {version}")
                recorded[key] = version
        for key, version in self.versions.items():
            if recorded.get(key) != version:
                wrong.append(f"{key} was acknowledged in {version}, recorded in {recorded.get(key)}")
        unexplained = set(recorded) - set(self.versions) - self.doubts
        if unexplained:
            wrong.append(f"nobody heard of {sorted(unexplained)[:3]} and {len(unexplained)} in all")
        return wrong[:20] + self._check_counts(model, len(recorded))

    def _check_counts(self, model, recorded):
        wrong, counts = [], model.counts()
        if sorted(self.records) != list(range(1, model.version + 1)):
            wrong.append(f"{len(self.records)} records for {model.version} versions")
        if counts["applied"] != recorded:
            wrong.append(f"applied: {counts['applied']} counted, {recorded} recorded")
        for count, outcome in (("skipped", "SKIPPED_NONFINITE"), ("stale", "STALE")):
            heard = self.outcomes[outcome]
            if not heard <= counts[count] <= heard + len(self.doubts):
                wrong.append(f"{count}: {counts[count]} counted, {heard} heard")
        refused = sum(self.refusals.values())
        if counts["rejected"] < self.refusals["NONFINITE"]:
            wrong.append(f"rejected: {counts['rejected']} counted, {refused} heard")
        return wrong

    def __str__(self):
        return (f"{len(self.records)} versions; heard {dict(self.outcomes)}; "
                f"refused {dict(self.refusals)}; {len(self.doubts)} in doubt")
