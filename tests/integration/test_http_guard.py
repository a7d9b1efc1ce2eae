"""Hostile HTTP/1: each case gets its answer or its end, and the daemon lives on.

Numbers are those of the list of cases that the guard was designed against. A case is what a client sends,
and what may come back: a set of statuses, or None for an end without an answer. All refusals of framing
close the connection, so that nothing behind them is read as a request.
"""

import re
import socket
import time
import unittest

from harness import Daemon, eventually, seconds

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
CREATE = b"/v1/models?model_id=guard&validate_only=true"
MODEL = b'{"tensors": [{"key": "w", "shape": ["2"]}]}'


def post(*lines, body=b"", version=b"HTTP/1.1", host=b"Host: a\r\n"):
    """A POST to a path that collects its body, with these header lines."""
    head = b"POST " + CREATE + b" " + version + b"\r\n" + host
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(target=b"/livez", *lines, method=b"GET", version=b" HTTP/1.1", host=b"Host: a\r\n"):
    return method + b" " + target + version + b"\r\n" + host + b"".join(
        line + b"\r\n" for line in lines) + b"\r\n"


def length(n):
    return b"Content-Length: " + n


TE = b"Transfer-Encoding: "
CHUNKED = TE + b"chunked"
TYPE = b"Content-Type: application/json"
WHOLE = length(str(len(MODEL)).encode())
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(MODEL), MODEL)


def chunks(first):
    """A body whose first chunk line is `first`."""
    return first + b"\r\n" + MODEL + b"\r\n0\r\n\r\n"


def size(text=b"%x"):
    return text % len(MODEL)


# What the guard, or the library before it, refuses; the connection then ends.
REFUSED = {
    "1 length and chunked": (post(length(b"5"), CHUNKED, body=b"0\r\n\r\n" + GET), {400}),
    "2 chunked and length": (post(CHUNKED, length(b"5"), body=b"0\r\n\r\n" + GET), {400}),
    "3 two lengths": (post(length(b"3"), length(b"40"), body=b"abc" + GET), {400}),
    "4 two equal lengths": (post(length(b"3"), length(b"3"), body=b"abc"), {400}),
    "5 a list of lengths": (post(length(b"5, 5"), body=b"abcde"), {400}),
    "6 plus": (post(length(b"+5"), body=b"abcde"), {400}),
    "7 minus": (post(length(b"-1")), {400}),
    "8 hexadecimal": (post(length(b"0x5"), body=b"abcde"), {400}),
    "9 underscore": (post(length(b"5_0"), body=b"abcde"), {400}),
    "10 letter behind": (post(length(b"1Z"), body=b"a"), {400}),
    "11 no digits": (post(length(b"")), {400}),
    "12 2^64": (post(length(b"18446744073709551616")), {400, 413}),
    "13 2^63": (post(length(b"9223372036854775808")), {400, 413}),
    "15 comma before chunked": (post(TE + b",chunked", length(b"3"), body=b"abc"), {400, 501}),
    "16 xchunked": (post(TE + b"xchunked"), {400, 501}),
    "17 identity, chunked": (post(TE + b"identity, chunked"), {400, 501}),
    "18 gzip, chunked": (post(TE + b"gzip, chunked"), {400, 501}),
    "19 chunked twice": (post(CHUNKED, CHUNKED, body=CHUNKS), {400}),
    "20 vertical tab": (post(TE + b"\x0bchunked"), {400, 501}),
    "22 space before the colon": (post(b"Transfer-Encoding : chunked", length(b"3"), body=b"abc"),
                                  {400}),
    "23 folded": (post(b"X-A: b\r\n Transfer-Encoding: chunked", TE + b"\r\n chunked",
                       length(b"3"), body=b"abc"), {400}),
    "24 chunked in 1.0": (post(CHUNKED, version=b"HTTP/1.0", body=CHUNKS), {400}),
    "25 chunk 0x": (post(TYPE, CHUNKED, body=chunks(size(b"0x%x"))), {400}),
    "26 chunk plus": (post(TYPE, CHUNKED, body=chunks(size(b"+%x"))), {400}),
    "27 chunk minus": (post(TYPE, CHUNKED, body=chunks(size(b"-%x"))), {400}),
    "28 chunk underscore": (post(TYPE, CHUNKED, body=chunks(b"5_0")), {400}),
    "29 chunk empty": (post(TYPE, CHUNKED, body=chunks(b"")), {400}),
    "30 chunk space before": (post(TYPE, CHUNKED, body=chunks(size(b" %x"))), {400}),
    "31 chunk space behind": (post(TYPE, CHUNKED, body=chunks(size(b"%x "))), {400}),
    "32 chunk 2^64 + 5": (post(TYPE, CHUNKED, body=chunks(b"10000000000000005")), {400, 413}),
    "38 chunk ZZ": (post(TYPE, CHUNKED, body=chunks(b"ZZ")), {400}),
    "40 longer than its chunk": (post(TYPE, CHUNKED, body=b"2\r\n" + MODEL + b"\r\n0\r\n\r\n"),
                                 {400}),
    "41 chunk ended by XX": (post(TYPE, CHUNKED, body=size() + b"\r\n" + MODEL + b"XX0\r\n\r\n"),
                             {400}),
    "44 no Host": (get(host=b""), {400}),
    "45 two Hosts": (get(b"/livez", b"Host: b"), {400}),
    "47 bare CR in a value": (get(b"/livez", b"X-A: a\rb"), {400}),
    "49 NUL in a name": (get(b"/livez", b"X\0A: b"), {400, None}),
    "51 %00": (get(b"/livez%00.pt"), {400}),
    "52 no colon": (get(b"/livez", b"nonsense"), {400}),
    "54 space before the first header": (get(host=b" Host: a\r\n"), {400}),
    "56 imitated length": (post(b"Content-Length\x85: 3", WHOLE, body=MODEL), {400}),
    "57 HTTP/1.32": (get(version=b" HTTP/1.32"), {400, 505}),
    "58 HTTP/2.0": (get(version=b" HTTP/2.0"), {400, 505}),
    "59 HTTP/9.9": (get(version=b" HTTP/9.9"), {400, 505}),
    "60 http/1.1": (get(version=b" http/1.1"), {400, 505}),
    "61 HTTP/0.9": (b"GET /livez\r\n\r\n", {400, 505, None}),
    "62 no version": (get(version=b""), {400, 505}),
    "68 LF for a space": (b"GET\n/livez HTTP/1.1\r\nHost: a\r\n\r\n", {400, None}),
    "69 absolute form": (get(b"http://elsewhere/livez"), {400}),
    "70 CONNECT": (get(b"elsewhere:443", method=b"CONNECT"), {400, 405}),
    "72 OPTIONS *": (get(b"*", method=b"OPTIONS"), {400, 405}),
    "73 dot segments": (get(b"/v1/models/../../etc/passwd"), {400}),
    "74 escaped dot segments": (get(b"/v1/%2e%2e%2fetc"), {400}),
    "75 broken escape": (get(b"/livez%zz"), {400}),
    "76 long target": (get(b"/" + b"a" * 40000), {414}),
    "77 long header": (get(b"/livez", b"X-A: " + b"a" * 40000), {431}),
    "78 5,000 headers": (get(b"/livez", *[b"X-A: b"] * 5000), {431}),
    "79 HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, {400, 505}),
    "81 odd bytes": (bytes(range(1, 251)) * 8 + b"\r\n\r\n", {400, None}),
    "85 another expectation": (post(b"Expect: a-miracle", WHOLE, body=MODEL), {417}),
    "87 GET with a body": (get(b"/livez", length(b"3")) + b"abc", {400}),
    "101 headers": (get(b"/livez", *[b"X-A: b"] * 100), {431}),
    "a query parameter twice": (get(b"/livez?verbose&verbose"), {400}),
}

# What is served, or answered in order, by the same connection.
SERVED = {
    "14 010 is ten": (post(TYPE, length(b"0" + str(len(MODEL)).encode()), body=MODEL), 200),
    "21 ChUnKeD": (post(TYPE, TE + b"ChUnKeD", body=CHUNKS), 200),
    "34 chunk extension": (post(TYPE, CHUNKED, body=chunks(size(b"%x;a=b"))), 200),
    "36 leading zeros": (post(TYPE, CHUNKED, body=chunks(size(b"000%x"))), 200),
    "43 a length as trailer": (
        post(TYPE, CHUNKED, body=CHUNKS[:-2] + b"Content-Length: 9\r\n\r\n"), 200),
    "63 odd method": (get(method=b'G="<>'), 405),
    "64 unknown method": (get(method=b"FROB"), 405),
    "71 TRACE": (get(method=b"TRACE"), 405),
    "83 line break before": (b"\r\n" + GET, 200),
    "86 upgrade ignored": (get(b"/livez", b"Connection: Upgrade", b"Upgrade: h2c"), 200),
    "92 a length": (post(TYPE, WHOLE, body=MODEL), 200),
    "93 chunks": (post(TYPE, CHUNKED, body=CHUNKS), 200),
    "a short body that is refused": (
        post(b"Content-Type: text/html", WHOLE, body=MODEL), 415),
    "an unknown path": (get(b"/nowhere"), 404),
    "an unknown query parameter": (get(b"/livez?verbos"), 400),
    "a body where none is taken": (
        b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 405),
    "a compressed body": (post(TYPE, b"Content-Encoding: gzip", WHOLE, body=MODEL), 415),
    "a push without length": (
        b"POST /v1/models/m/gradients HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
        b"Request-Timeout-Ms: soon\r\n\r\n", 400),
}

# Cannot be seen from behind the library; answered or ended, never twice.
TOLERATED = {
    "35 CR in an extension": post(TYPE, CHUNKED, body=chunks(size(b"%x;a\rb"))),
    "37 many zeros": post(TYPE, CHUNKED, body=chunks(b"0" * 5000 + size())),
    "39 bare LF in chunk lines": post(TYPE, CHUNKED, body=CHUNKS.replace(b"\r\n", b"\n")),
    "42 long extension": post(TYPE, CHUNKED, body=chunks(size() + b";" + b"a" * 40000)),
    "46 bare LF after headers": GET.replace(b"\r\n", b"\n"),
    "48 NUL in a value": get(b"/livez", b"X-A: a\0b"),
    "50 NUL in the target": get(b"/livez\0x"),
    "53 no name": get(b"/livez", b": b"),
    "55 folded": get(b"/livez", b"X-A: a\r\n b"),
    "65 two spaces": b"GET  /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "66 tab for a space": b"GET\t/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "67 space in the target": get(b"/li vez"),
}


def statuses(answer):
    """Of the answers in what was read. Interim ones do not count, and the library announces some of
    its own refusals twice."""
    found = [int(s) for s in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]
    return [s for i, s in enumerate(found) if s != 100 and (i == 0 or s < 400 or s != found[i - 1])]


class HostileRequests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Deadlines short enough that what waits for an end gets it soon.
        cls.daemon = Daemon("--header-timeout", "1500ms", "--body-timeout", "1500ms",
                            "--idle-timeout", "20s", "--min-rate", "1G").start()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def talk(self, data, timeout=6.0):
        """All that comes until the daemon closes; and whether it did, before the time was over."""
        with self.daemon.socket(timeout) as client:
            answer, closed = b"", False
            try:
                client.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused while we were sending
            try:
                while piece := client.recv(65536):
                    answer += piece
                closed = True
            except ConnectionResetError:
                closed = True
            except TimeoutError:
                pass
            return answer, closed

    def read_answer(self, client):
        """One answer with Content-Length."""
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = client.recv(65536)
            self.assertTrue(piece, answer)
            answer += piece
        head, body = answer.split(b"\r\n\r\n", 1)
        wanted = int(re.search(rb"Content-Length: (\d+)", head)[1])
        while len(body) < wanted:
            body += client.recv(65536)
        self.assertEqual(len(body), wanted)
        return int(head[9:12])

    def test_refused(self):
        for name, (data, wanted) in REFUSED.items():
            with self.subTest(name):
                answer, closed = self.talk(data)
                found = statuses(answer)
                self.assertTrue(closed, (found, answer[:300]))
                self.assertLessEqual(len(found), 1, answer[:600])
                self.assertIn(found[0] if found else None, wanted, answer[:300])

    def test_our_own_refusals_say_why(self):
        for name in ("1 length and chunked", "45 two Hosts", "51 %00", "73 dot segments"):
            with self.subTest(name):
                answer, _ = self.talk(REFUSED[name][0])
                self.assertRegex(answer, rb"Connection: close")
                self.assertRegex(answer, rb'"reason":"BAD_F(RAMING|IELD)"')
                self.assertRegex(answer, rb"Adamd-Request-Id: \w+")

    def test_served_and_the_connection_lives(self):
        for name, (data, wanted) in SERVED.items():
            with self.subTest(name), self.daemon.socket() as client:
                client.sendall(data)
                self.assertEqual(self.read_answer(client), wanted)
                client.sendall(GET)
                self.assertEqual(self.read_answer(client), 200)

    def test_tolerated_never_twice(self):
        for name, data in TOLERATED.items():
            with self.subTest(name):
                last = data + get(b"/livez", b"Connection: close")
                answer, closed = self.talk(last)
                self.assertTrue(closed, answer[:300])
                self.assertLessEqual(len(statuses(answer)), 2, answer[:600])

    def test_33_endless_chunk_ends_by_limit_or_deadline(self):
        answer, closed = self.talk(
            post(TYPE, CHUNKED, body=chunks(b"ffffffffffffffff")) + b" " * 100)
        self.assertTrue(closed, answer[:300])
        self.assertFalse({200} & set(statuses(answer)))

    def test_80_tls_and_82_line_breaks_end_by_deadline(self):
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
        for data in (hello, b"\r\n" * 100):
            answer, closed = self.talk(data)
            self.assertTrue(closed)
            self.assertNotIn(200, statuses(answer))

    def test_84_continue_comes_before_the_body_is_sent(self):
        with self.daemon.socket() as client:
            client.sendall(post(TYPE, WHOLE, b"Expect: 100-continue"))
            self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 100"))
            client.sendall(MODEL)
            self.assertEqual(self.read_answer(client), 200)

    def test_refusal_comes_in_place_of_continue(self):
        with self.daemon.socket() as client:
            client.sendall(post(b"Content-Encoding: gzip", WHOLE, b"Expect: 100-continue"))
            self.assertEqual(self.read_answer(client), 415)
            self.assertEqual(client.recv(10), b"")

    def test_88_pipelined_in_order(self):
        answer, _ = self.talk(GET + get(b"/nowhere") + get(b"/livez", b"Connection: close"))
        self.assertEqual(statuses(answer), [200, 404, 200])

    def test_89_90_cut_bodies_apply_nothing(self):
        cut = (post(TYPE, length(b"500"), body=MODEL), post(TYPE, CHUNKED, body=CHUNKS[:-5]))
        for data in (d.replace(b"&validate_only=true", b"") for d in cut):
            with self.daemon.socket() as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                self.assertNotIn(200, statuses(client.recv(65536)))
        self.assertEqual(self.daemon.get("/v1/models/guard").status, 404)

    def test_91_nothing_after_close(self):
        answer, _ = self.talk(get(b"/livez", b"Connection: close") + GET)
        self.assertEqual(statuses(answer), [200])

    def test_request_id_is_the_clients_where_it_is_a_token(self):
        given = self.daemon.get("/livez", headers={"X-Request-Id": "run-7.worker_3"})
        self.assertEqual(given.headers["adamd-request-id"], "run-7.worker_3")
        for odd in ("a b", "x" * 65, "é"):
            reply = self.daemon.get("/livez", headers={"X-Request-Id": odd.encode()})
            self.assertNotEqual(reply.headers["adamd-request-id"], odd)

    def test_methods_that_a_path_knows_are_told(self):
        reply = self.daemon.request("PUT", "/v1/models", body=b"")
        reply.expect(405, "METHOD_NOT_ALLOWED")
        self.assertEqual(reply.headers["allow"], "GET, HEAD, POST")

    def test_typo_in_a_parameter_is_named_with_what_was_meant(self):
        reply = self.daemon.post("/v1/models/m/gradients?worker=a&epoch=1&sequnce=1", b"")
        reply.expect(400, "BAD_FIELD")
        self.assertEqual(reply.fields, ["sequnce"])
        self.assertIn("'sequence'", reply.json()["message"])

    def test_problem_json_where_it_is_asked_for(self):
        reply = self.daemon.get("/v1/models/none", headers={"Accept": "application/problem+json"})
        self.assertEqual(reply.headers["content-type"], "application/problem+json")
        self.assertEqual(reply.json()["type"], "urn:adamd:reason:NOT_FOUND")
        self.assertEqual(reply.json()["instance"], reply.headers["adamd-request-id"])

    def test_a_body_over_the_limit_is_refused_unread(self):
        with self.daemon.socket() as client:
            client.sendall(post(TYPE, length(b"99999999999")))
            self.assertEqual(self.read_answer(client), 413)
            self.assertEqual(client.recv(10), b"")

    def test_a_chunked_body_over_the_limit_is_refused(self):
        block = b"10000\r\n" + b" " * 65536 + b"\r\n"
        with self.daemon.socket() as client:
            try:
                client.sendall(b"POST /v1/models/m:step HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n\r\n"
                               + block * 40 + b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.assertIn(self.read_answer(client), (404, 413))


class SlowClients(unittest.TestCase):
    """Deadlines are absolute: a byte now and then buys no time, and others are served meanwhile."""

    HEAD, IDLE, BODY, ANSWER = 0.8, 2.0, 1.2, 1.0

    @classmethod
    def setUpClass(cls):
        limits = {"header": cls.HEAD, "idle": cls.IDLE, "body": cls.BODY, "response": cls.ANSWER}
        flags = [f for k, v in limits.items() for f in (f"--{k}-timeout", f"{int(v * 1000)}ms")]
        cls.daemon = Daemon(*flags, "--min-rate", "1G").start()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def drip(self, first, byte=b"a", pause=0.1):
        """How long the daemon lets a client live that sends `first`, then a byte each `pause`."""
        start = time.monotonic()
        with self.daemon.socket(pause) as client:
            client.sendall(first)
            while time.monotonic() - start < seconds(10):
                try:
                    client.sendall(byte)
                    if client.recv(4096) == b"":
                        break
                except TimeoutError:
                    self.assertEqual(self.daemon.get("/livez").status, 200)
                except OSError:
                    break
            return time.monotonic() - start

    def assert_near(self, lived, limit):
        self.assertGreater(lived, limit * 0.8)
        self.assertLess(lived, seconds(limit + 1.0))

    def test_header_drip(self):
        self.assert_near(self.drip(b"GET /livez HTTP/1.1\r\nX-A: "), self.HEAD)

    def test_first_byte_drip(self):
        self.assert_near(self.drip(b"G", b"E"), self.HEAD)

    def test_body_drip(self):
        self.assert_near(self.drip(post(TYPE, length(b"1000"))), self.BODY)

    def test_chunk_drip(self):
        self.assert_near(self.drip(post(TYPE, CHUNKED), b"1\r\n \r\n"), self.BODY)

    def test_header_drip_of_a_second_request(self):
        self.assert_near(self.drip(GET + b"GET /livez HTTP/1.1\r\nX-A: "), self.HEAD)

    def test_idle_before_and_after_a_request(self):
        for first in (b"", GET):
            with self.daemon.socket() as client:
                client.sendall(first)
                start, last = time.monotonic(), b""
                while piece := client.recv(4096):
                    last = piece
                self.assertEqual(bool(last), bool(first))
                self.assert_near(time.monotonic() - start, self.IDLE)

    def test_requests_in_time_keep_a_connection_alive(self):
        with self.daemon.connection() as connection:
            for _ in range(4):
                self.assertEqual(connection.request("GET", "/livez").status, 200)
                time.sleep(self.IDLE / 2)

    def test_answer_that_nobody_reads(self):
        count = 4 << 20
        self.daemon.create_model("slow", {"w": [count]}, start={"w": [0.0] * count})
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(seconds(10))
            client.connect(("127.0.0.1", self.daemon.port))
            client.sendall(get(b"/v1/models/slow/parameters"))
            eventually(lambda: "request cut off" in self.daemon.log(), limit=6.0)
        self.assertEqual(self.daemon.get("/livez").status, 200)

    def test_peer_that_goes_away_while_it_waits_is_noticed(self):
        model = self.daemon.create_model("gone", {"w": [2]}, start={"w": [0.0, 0.0]})
        del model
        before = self.daemon.get("/v1/server").json()["connections"]
        with self.daemon.socket() as client:
            client.sendall(get(b"/v1/models/gone/parameters?min_version=9&wait=30s"))
            time.sleep(0.3)
        eventually(lambda: self.daemon.get("/v1/server").json()["connections"] <= before, limit=4.0)

    def test_many_connects_and_resets_leave_nothing(self):
        before = self.daemon.descriptors()
        for _ in range(300):
            client = self.daemon.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        eventually(lambda: self.daemon.descriptors() <= before + 2)


if __name__ == "__main__":
    unittest.main()
