"""Networks of users' own with xLSTM blocks inside: what the exporter of networks is proven with.

    network = NETWORKS["two-branches"]
    module = network.build(seed=0)                    # plain torch and upstream's packages, every weight random
    inputs = network.example(batch=2, sequence=40)    # {"fast": (2, 40, 5), "slow": (2, 40, 3)}
    outputs = network.reference(module, inputs)       # what the module gives itself
    network.streams, network.culprits                 # the truth, from theory

`generated(seed)` plants an operator that mixes time, or its causal twin, somewhere in a network.
"""

from support.networks.by_hand import BY_HAND
from support.networks.convolutional import CONVOLUTIONAL
from support.networks.generated import GENERATED, generated
from support.networks.network import Network, tensors_of
from support.networks.odd import ODD
from support.networks.randomise import randomise
from support.networks.streaming import STREAMING
from support.networks.vendored import VENDORED, vendor
from support.networks.windows import WINDOWS

NETWORKS: dict[str, Network] = {n.name: n for n in [*STREAMING, *CONVOLUTIONAL, *BY_HAND, *WINDOWS, *ODD, *VENDORED]}

__all__ = ["GENERATED", "NETWORKS", "Network", "generated", "randomise", "tensors_of", "vendor"]
