"""A model is a directory of safetensors and JSON: save it, check it, load it where there is no network."""

from pathlib import Path

from autoperi import AutoPeri
from autoperi.hub import verify

peri = AutoPeri.from_pretrained("autoperi-base")
peri.save_pretrained("my-model")

for row in verify("my-model"):
    print("ok " if row.ok else "BAD", row.sha256[:12], row.file)
print(sum(f.stat().st_size for f in Path("my-model").iterdir()), "bytes, none of them a pickle")

mine = AutoPeri.from_pretrained("./my-model", local_files_only=True)
assert mine.generate("MgO", n=2, seed=7) == peri.generate("MgO", n=2, seed=7)
print(mine.provenance())
