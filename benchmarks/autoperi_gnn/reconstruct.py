"""Reconstruction through z: match rate and RMSE of held-out crystals that the encoder read and the decoder drew.

    python benchmarks/autoperi_gnn/reconstruct.py --data .train/gnn/val.safetensors --limit 300 --out FILE

Space group and orbits are given. Of K draws through the mean of q(z | crystal), three are judged: the first; the
one that the encoder reads as nearest to z
(``autoperi.pipelines.flow.reconstruct``), which needs no more than z; and the best, which needs the crystal and
shows what choosing
could reach. ``without`` is the first of the draws that do not see z.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from flow_weights import add_options, tried_on
from sample import BATCH, rates, rms_distances

from autoperi.data.convert import to_structures
from autoperi.data.random import torch_generator
from autoperi.pipelines.flow import reconstruct
from autoperi.pipelines.flow import sample as drawn_from
from autoperi.processes.flow import crystal_noise

DRAWS = (1, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=8, help="Euler steps")
    parser.add_argument("--anneal", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model, sha256, data, rows = tried_on(args)
    how = {"steps": args.steps, "method": "euler", "anneal": args.anneal}
    most = max(DRAWS)
    truth: list = []
    made: list[list] = [[] for _ in range(most)]
    without: list = []
    apart = []
    for part in rows.split(BATCH):
        batch, _ = data.take(part)
        freedom, y = batch.freedom.to(dtype=torch.float32), batch.y.float()
        truth += to_structures(freedom.crystals(y))
        with torch.no_grad():
            z, _ = model.encode(freedom.crystals(y))
            distances = []
            for k in range(most):
                noise = crystal_noise(freedom, [torch_generator(args.seed, k, int(row)) for row in part]).float()
                drawn, distance = reconstruct(model, freedom, z, noise.unsqueeze(0), **how)
                distances.append(distance)
                made[k] += to_structures(freedom.crystals(drawn))
                if k == 0:
                    without += to_structures(freedom.crystals(drawn_from(model, freedom, noise, **how)))
            apart.append(torch.stack(distances))
    distance = torch.cat(apart, 1)
    rms = [rms_distances(truth, own) for own in made]
    result: dict[str, Any] = {
        "task": "autoperi_gnn_reconstruct",
        "crystals": len(rows),
        "seed": args.seed,
        **how,
        "flow_sha256": sha256,
        "without": rates(rms_distances(truth, without)),
        "draws": {},
    }
    for k in DRAWS:
        nearest = distance[:k].argmin(0).tolist()
        best = [min((r[i] for r in rms[:k] if r[i] is not None), default=None) for i in range(len(truth))]
        result["draws"][str(k)] = {"nearest": rates([rms[c][i] for i, c in enumerate(nearest)]), "best": rates(best)}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
