"""Compiles every kernel of the Triton backend, as it would be launched, for GPUs that need not be here.

    python tests/model/compile_triton.py 80 90

Prints, as JSON, what each takes, by compute capability and kernel: bytes of shared memory, registers, and stack (what
did not fit the registers). In a process of its own, because kernels of a process that interprets do not compile.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from model.kernels import triton_chunks
from model.kernels.triton_operator import options

HEAD_SIZE = 64
KERNELS = [
    value for name, value in vars(triton_chunks).items() if name[0] != "_" and isinstance(value, JITFunction)
]
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
OF_CALLER = ("r", "w", "k", "v", "a", "b", "dr", "dw", "dk", "dv", "da", "db")  # the others are float32


def resources(kernel: Any, capability: int) -> dict[str, int]:
    names = kernel.arg_names
    chosen = options(kernel.__name__, HEAD_SIZE)
    constants = {name: value for name, value in {**chosen, "BACK": True}.items() if name in names}
    types = dict.fromkeys(constants, "constexpr") | dict.fromkeys(("T", "H", "START", "SPANS"), "i32")
    types |= dict.fromkeys(OF_CALLER, "*bf16")
    signature = {name: types.get(name, "*fp32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] == "*"}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=chosen)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    return {"shared": compiled.metadata.shared, "registers": found["REG"], "stack": found["STACK"]}


def main() -> None:
    capabilities = [int(argument) for argument in sys.argv[1:]]
    print(
        json.dumps({x: {kernel.__name__: resources(kernel, x) for kernel in KERNELS} for x in capabilities})
    )


if __name__ == "__main__":
    main()
