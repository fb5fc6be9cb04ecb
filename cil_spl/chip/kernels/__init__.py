"""The compiled inner loops of the simulator.

    tables         what they read and fill: a network, recordings, an answer, a die (no numba, the rest has it)
    events         an event, as one number
    vectors        the step of one input event, in LLVM's vector types
    layer          one layer's input events through its neurons
    sensor, queue  the sensor's events; events that are under way
    chance, die    random numbers; what a die does to events
    chain          recordings through a chain, layer by layer
    depth_first    recordings through branches and merges, or with events under way
    compiled       the two functions that are called from Python, and kept on disk

Membranes lie features innermost (y, x, feature), features padded to a multiple of eight. Every event of a layer is
handled alike: a window of as many rows and columns as an event can reach, a row of it being one contiguous run of
membranes and one of weights, which are zero where the kernel does not reach, and everywhere for an event that is
dropped. A zero changes no state that is below its threshold, so that nothing depends on the event but addresses: no
branch that a processor could predict wrongly. Common shapes of window have a loop of their own (``SHAPES``).

The masks of some hundred events are set aside and turned into events in a loop of their own. A layer in which few
neurons fire is the exception to the rule of no branches: there, a mask is written only where it is not zero.

A store that crosses the middle of a cache line takes about twice as long. Where the map allows it, windows begin there.

Neurons that may leave 16 bits, still be above their threshold, or have one of their own take the exact step. It tells
apart the weight that is zero and the one that does not exist, and counts saturations.

numba counts references to arrays, atomically. In a loop over events no array is made, and what the loop takes is
borrowed (:func:`cil_spl.chip.kernels.vectors.borrowed`). Even of a borrowed array the count is asked for in each call.
"""
