"""A strategy as a numpy prototype: train four configurations for a third, finish the better two, repeat.

`nearopt check halving_numpy.HalvingNumpy` runs the rules on it; conf/strategy/halving_numpy.yaml names it.
"""

import numpy as np

from bench.protocols import NONE, Job


class HalvingNumpy:
    anytime, needs = True, frozenset({"stop", "resume"})

    def __init__(self, cube, max_epoch, budget, seed):
        self.random, self.cube, self.max_epoch = np.random.default_rng(seed), cube, max_epoch
        self.num_trials = 4 * int(np.ceil(budget))
        self.short = max(1, max_epoch // 3)
        self.x, self.loss, self.promoted, self.asked = [], {}, {}, []

    def ask(self):
        group = len(self.asked) // 4 * 4 if len(self.asked) % 4 else len(self.asked) - 4
        if len(self.asked) % 4 == 0 and self.asked and self.short < self.max_epoch:
            four = range(group, group + 4)
            if any(k not in self.loss for k in four):
                return Job(NONE, NONE, self.x[0], 0)  # wait until all four are told
            for k in sorted(four, key=lambda k: (not np.isfinite(self.loss[k]), self.loss[k]))[:2]:
                if k not in self.promoted:
                    self.promoted[k] = True
                    return Job(k, k, self.x[k], self.max_epoch)
        k = len(self.asked)
        if k == self.num_trials:
            return Job(NONE, NONE, self.x[0], 0)
        self.asked.append(k)
        self.x.append(np.where(self.cube.mask, self.random.random(self.cube.width), 0.5).astype(np.float32))
        return Job(k, NONE, self.x[k], self.short)

    def tell(self, job, feedback):
        self.loss.setdefault(int(job.trial), feedback.loss)
