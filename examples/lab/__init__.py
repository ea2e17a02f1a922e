"""What the examples share: training, seeds, statistics, pictures, and the page of verdicts.

A script of `examples/` is read alone. These files are for those who write one:

    training     one training loop, with paired seeds
    resume       keeps a training run in a file
    records      from runs to medians, choices and pairs
    intervals    confidence intervals over seeds
    verdicts     what an experiment claims, and how two blocks of seeds give one verdict
    claims       the quotations and the rules, from claims/*.toml
    command      the options, the table, the files, the check
    store        finished runs, on disk
    parallel     runs in processes of their own
    files        aligned tables, JSON, atomic writes
    figures      one colour per norm
    across_ranks training on the ranks of mpiexec
    howto        generated tables in docs/howto/
    page         EXPERIMENTS.md and docs/experiments/
    peers        the fused ops of PyTorch and JAX
"""
