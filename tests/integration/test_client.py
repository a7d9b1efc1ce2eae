"""libadamd-client as others get it: installed, found by pkg-config and CMake, used from C and C++."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from harness import ROOT, Daemon, environment, find_binary, seconds

HEADER = ROOT / "client" / "include" / "adamd" / "client.h"

PROGRAM = r"""
#include "adamd/client.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    char message[256];
    float values[3] = {0, 0, 0};
    const uint64_t shape[] = {3};
    adamd_tensor_t tensor;
    adamd_conf_t *conf = adamd_conf_new();
    adamd_client_t *client;
    adamd_model_options_t options = ADAMD_MODEL_OPTIONS_INIT;
    adamd_register_options_t registration = ADAMD_REGISTER_OPTIONS_INIT;
    adamd_register_result_t registered = ADAMD_REGISTER_RESULT_INIT;
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_push_result_t pushed = ADAMD_PUSH_RESULT_INIT;
    adamd_session_t *session = NULL;
    adamd_model_t *model = NULL;
    adamd_data_t piece;
    adamd_error_t *error;

    if (argc != 2 || adamd_conf_set(conf, "endpoint", argv[1], message, sizeof message) != 0) {
        return 2;
    }
    client = adamd_client_new(conf, message, sizeof message);
    tensor.key = "w";
    tensor.shape = shape;
    tensor.rank = 1;
    options.model = "installed";
    options.tensors = &tensor;
    options.tensor_count = 1;
    registration.model = "installed";
    registration.worker = "w0";
    piece.data = values;
    piece.byte_size = sizeof values;
    push.flat = values;
    push.flat_bytes = sizeof values;
    error = adamd_model_create(client, &options);
    if (error == NULL) {
        error = adamd_model_get(client, "installed", &model);
    }
    if (error == NULL) {
        error = adamd_put_parameters(client, model, &piece, 1, 0, 0);
    }
    if (error == NULL) {
        error = adamd_register(client, &registration, &session, &registered);
    }
    if (error == NULL) {
        error = adamd_push(session, &push, &pushed);
    }
    if (error != NULL) {
        fprintf(stderr, "%s\n", adamd_error_message(error));
        return 1;
    }
    printf("version %d of %s\n", (int)pushed.version, adamd_model_id(model));
    adamd_model_destroy(model);
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    return 0;
}
"""

CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(other C)
find_package(adamd-client 0.1 REQUIRED)
add_executable(other other.c)
target_link_libraries(other PRIVATE adamd::client)
"""


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.build = pathlib.Path(find_binary()).resolve().parents[1]
        library = cls.build / "lib" / "libadamd-client.so"
        needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True,
                                check=True).stdout
        if re.search(r"lib[at]san|libubsan", needed):
            raise unittest.SkipTest("a sanitizer's runtime would have to come first")
        cls.directory = tempfile.TemporaryDirectory(prefix="adamd-client-test-")
        cls.addClassCleanup(cls.directory.cleanup)
        cls.work = pathlib.Path(cls.directory.name)
        cls.prefix = cls.work / "prefix"
        cls.call("cmake", "--install", cls.build, "--prefix", cls.prefix)
        (package,) = cls.prefix.glob("**/adamd-client.pc")
        cls.libraries = package.parents[1]
        # The prefix of the build is the one that was configured; this installation is elsewhere.
        cls.pkg = ["pkg-config", f"--define-variable=prefix={cls.prefix}"]
        cls.env = {**environment(), "PKG_CONFIG_PATH": str(package.parent),
                   "LD_LIBRARY_PATH": str(cls.libraries)}
        cls.daemon = Daemon().start()
        cls.addClassCleanup(cls.daemon.stop)

    @classmethod
    def call(cls, *command, env=None):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              timeout=seconds(120), env=env or environment(), check=False)
        if done.returncode != 0:
            raise AssertionError(f"{command}: {done.stdout}\n{done.stderr}")
        return done.stdout

    def run_program(self, program):
        output = self.call(program, f"http://127.0.0.1:{self.daemon.port}", env=self.env)
        self.assertEqual(output, "version 1 of installed\n")
        self.daemon.request("DELETE", "/v1/models/installed", force="true").expect(200)

    def compile(self, compiler, name, *flags):
        source = self.work / name
        source.write_text(PROGRAM)
        program = source.with_suffix("")
        words = self.call(*self.pkg, "--cflags", "--libs", "adamd-client", env=self.env).split()
        self.call(*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", source, *words, *flags,
                  "-o", program)
        return program

    def test_c99_by_pkg_config(self):
        self.run_program(self.compile(["cc", "-std=c99"], "c99.c"))

    def test_cxx_by_pkg_config(self):
        if shutil.which("c++") is None:
            self.skipTest("there is no C++ compiler")
        self.run_program(self.compile(["c++", "-std=c++11"], "cxx.cc"))

    def test_cmake_package(self):
        source = self.work / "cmake"
        source.mkdir()
        (source / "other.c").write_text(PROGRAM)
        (source / "CMakeLists.txt").write_text(CMAKE)
        self.call("cmake", "-S", source, "-B", source / "build",
                  f"-DCMAKE_PREFIX_PATH={self.prefix}")
        self.call("cmake", "--build", source / "build")
        self.run_program(source / "build" / "other")

    def test_what_is_exported_is_what_the_header_declares(self):
        library = self.libraries / "libadamd-client.so"
        lines = self.call("nm", "-D", "--defined-only", library).splitlines()
        exported = {line.split()[-1] for line in lines if " T " in line}
        declared = set(re.findall(r"\b(adamd_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER.read_text(),
                                                              flags=re.S)))
        self.assertEqual({name.split("@")[0] for name in exported}, declared)
        self.assertTrue(all("@@ADAMD_CLIENT_1.0" in name for name in exported))

    def test_the_soname(self):
        dynamic = self.call("readelf", "-d", self.libraries / "libadamd-client.so")
        self.assertIn("[libadamd-client.so.1]", dynamic)
        self.assertTrue(os.path.exists(self.libraries / "libadamd-client.so.1"))

    def test_the_header_needs_no_other(self):
        includes = set(re.findall(r"#include <(.*)>", HEADER.read_text()))
        self.assertEqual(includes, {"stddef.h", "stdint.h"})


if __name__ == "__main__":
    unittest.main()
