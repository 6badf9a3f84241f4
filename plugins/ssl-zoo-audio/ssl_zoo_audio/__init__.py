"""Self-supervised learning on sound for ssl-zoo.

- sound, spectra, spec: batches of clips, log-mel spectra and MFCC, the description of clips
- data: the bundled syllables, and audio files
- encoders: networks on log-mel spectra, and those of transformers
- masks, quantiser, clusters: what several tasks share
- hubert, wav2vec2, data2vec, cpc, byol_a: the tasks
"""
