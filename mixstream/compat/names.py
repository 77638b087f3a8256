"""The table of names: module of mosaicml-streaming 0.13 -> name -> `module:attribute` here, or a module.

Rules. A name stands here if programs can use it: what it gives must do what it does there, or refuse by name. Names
that begin with an underscore are that package's own; none is here. `ABSENT` says why a module or name is missing, to
programs that import it. Tests resolve every entry.
"""

VERSION = "0.13.0"
"""`streaming.__version__`: the interface that the names are those of."""

_FACE = {
    "StreamingDataset": "mixstream.compat.dataset:StreamingDataset",
    "StreamingDataLoader": "mixstream:StreamingDataLoader",
    "Stream": "mixstream:Stream",
    "LocalDataset": "mixstream:LocalDataset",
    "MDSWriter": "mixstream.writer:MDSWriter",
    "CSVWriter": "mixstream.writer:CSVWriter",
    "JSONWriter": "mixstream.writer:JSONWriter",
    "TSVWriter": "mixstream.writer:TSVWriter",
    "XSVWriter": "mixstream.writer:XSVWriter",
}
_MDS_CLASSES = (
    "Encoding Bytes Str Int NDArray UInt8 UInt16 UInt32 UInt64 Int8 Int16 Int32 Int64 Float16 Float32 Float64 StrInt "
    "StrFloat StrDecimal PIL JPEG JPEGArray PNG PILList JPEGList PNGList Pickle JSON"
)
_COMPRESSION = (
    "Brotli Bzip2 Compression Gzip LevelledCompression Snappy Zstandard compress decompress "
    "get_compression_extension is_compression"
)
_ENCODINGS, _FORMATS = "mixstream.compat.encodings", "mixstream.formats"
_READERS = "mixstream.loader.readers"
_REGISTRY = "TypedRegistry create_registry construct_from_registry import_file save_registry"
_DISTRIBUTED = (
    "all_gather all_gather_object barrier broadcast get_local_rank get_local_world_size get_rank get_world_size "
    "maybe_init_dist"
)
_CONSTANTS = (
    "BARRIER BARRIER_FILELOCK CACHE_FILELOCK CACHE_USAGE DEFAULT_TIMEOUT EPOCH_DATA EPOCH_SHAPE LOCALS NEXT_EPOCH "
    "RESUME SHARD_ACCESS_TIMES SHARD_STATES SHM_TO_CLEAN TICK"
)
_UTIL = (
    "bytes_to_int clean_stale_shared_memory get_import_exception_message get_list_arg number_abbrev_to_int retry "
    "wait_for_file_to_exist"
)
_DOWNLOADERS = (
    "AlipanDownloader AzureDataLakeDownloader AzureDownloader CloudDownloader DBFSDownloader "
    "DatabricksUnityCatalogDownloader GCSDownloader HFDownloader LocalDownloader OCIDownloader S3Downloader "
    "SFTPDownloader"
)
_UPLOADERS = (
    "AlipanUploader AzureDataLakeUploader AzureUploader CloudUploader DBFSUploader DatabricksUnityCatalogUploader "
    "DatabricksUploader GCSAuthentication GCSUploader HFUploader LocalUploader OCIUploader S3Uploader"
)
_SHUFFLES = ("naive", "py1br", "py1e", "py1s", "py2s")
_ORDER = "mixstream.plan.mosaic"
_TEXT, _VISION = "mixstream.compat.text", "mixstream.compat.vision"


def _of(module: str, names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names.split()}


def _only(*names: str) -> dict[str, str]:
    return {name: _FACE[name] for name in names}


MODULES: dict[str, dict[str, str]] = {
    "streaming": {**_FACE, "__version__": "mixstream.compat.names:VERSION"},
    "streaming._version": {"__version__": "mixstream.compat.names:VERSION"},
    "streaming.base": _FACE,
    "streaming.base.array": _of("mixstream.compat.array", "Array"),
    "streaming.base.batching": {
        **_of(_ORDER, "generate_work"),
        "batching_methods": f"{_ORDER}:BATCHING_METHODS",
    },
    "streaming.base.batching.device_per_stream": _of(_ORDER, "generate_work_device_per_stream_batching"),
    "streaming.base.batching.per_stream": _of(_ORDER, "generate_work_per_stream_batching"),
    "streaming.base.batching.random": _of(_ORDER, "generate_work_random_batching"),
    "streaming.base.batching.stratified": _of(_ORDER, "generate_work_stratified_batching"),
    "streaming.base.compression": {
        **_of("mixstream.compat.compression", _COMPRESSION),
        **_of(_FORMATS, "get_compressions"),
    },
    "streaming.base.constant": _of("mixstream.compat.constants", _CONSTANTS),
    "streaming.base.dataloader": _only("StreamingDataLoader"),
    "streaming.base.dataset": _only("StreamingDataset"),
    "streaming.base.distributed": _of("mixstream.compat.distributed", _DISTRIBUTED),
    "streaming.base.format": {
        **_only("CSVWriter", "JSONWriter", "MDSWriter", "TSVWriter", "XSVWriter"),
        **_of(_FORMATS, "FileInfo get_index_basename"),
        **_of(_READERS, "reader_from_json"),
        "Reader": f"{_READERS}:ShardReader",
    },
    "streaming.base.format.base": {**_of(_FORMATS, "FileInfo"), "Reader": f"{_READERS}:ShardReader"},
    "streaming.base.format.base.reader": {
        **_of(_FORMATS, "FileInfo"),
        **dict.fromkeys(("JointReader", "Reader", "SplitReader"), f"{_READERS}:ShardReader"),
    },
    "streaming.base.format.base.writer": {
        "JointWriter": "mixstream.writer:Writer",
        **_of("mixstream.writer", "SplitWriter Writer"),
    },
    "streaming.base.format.index": _of(_FORMATS, "get_index_basename"),
    "streaming.base.format.json": {**_only("JSONWriter"), **_of(_READERS, "JSONReader")},
    "streaming.base.format.json.reader": _of(_READERS, "JSONReader"),
    "streaming.base.format.json.encodings": {
        **_of(_ENCODINGS, "is_json_encoded"),
        **_of(_FORMATS, "is_json_encoding"),
        **{name: f"{_ENCODINGS}:JSON{name}" for name in ("Encoding", "Str", "Int", "Float")},
    },
    "streaming.base.format.json.writer": _only("JSONWriter"),
    "streaming.base.format.mds": {**_only("MDSWriter"), **_of(_READERS, "MDSReader")},
    "streaming.base.format.mds.reader": _of(_READERS, "MDSReader"),
    "streaming.base.format.mds.encodings": {
        **_of(_FORMATS, "get_mds_encoded_size get_mds_encodings is_mds_encoding is_mds_encoding_safe mds_decode"),
        **_of(_ENCODINGS, f"mds_encode {_MDS_CLASSES}"),
    },
    "streaming.base.format.mds.writer": _only("MDSWriter"),
    "streaming.base.format.xsv": {
        **_only("CSVWriter", "TSVWriter", "XSVWriter"),
        **_of(_READERS, "CSVReader TSVReader XSVReader"),
    },
    "streaming.base.format.xsv.reader": _of(_READERS, "CSVReader TSVReader XSVReader"),
    "streaming.base.format.xsv.encodings": {
        **_of(_ENCODINGS, "xsv_encode"),
        **_of(_FORMATS, "is_xsv_encoding xsv_decode"),
        **{name: f"{_ENCODINGS}:XSV{name}" for name in ("Encoding", "Str", "Int", "Float")},
    },
    "streaming.base.format.xsv.writer": _only("CSVWriter", "TSVWriter", "XSVWriter"),
    "streaming.base.hashing": _of(_FORMATS, "get_hash get_hashes is_hash"),
    "streaming.base.local": _only("LocalDataset"),
    "streaming.base.partition": _of(_ORDER, "get_partitions get_partitions_orig get_partitions_relaxed"),
    "streaming.base.partition.orig": _of(_ORDER, "get_partitions_orig"),
    "streaming.base.partition.relaxed": _of(_ORDER, "get_partitions_relaxed"),
    "streaming.base.registry_utils": {
        **_of("mixstream.compat.registry_utils", _REGISTRY),
        "TypedRegistry": "mixstream.loader.registry:Registry",
        "save_registry": "mixstream.loader.registry:saved_entries",
    },
    "streaming.base.sampling": _of(_ORDER, "get_sampling"),
    "streaming.base.shuffle": {
        **_of(_ORDER, f"get_shuffle {' '.join(f'get_shuffle_{name}' for name in _SHUFFLES)}"),
        "algos": f"{_ORDER}:ALGORITHMS",
    },
    **{f"streaming.base.shuffle.{name}": _of(_ORDER, f"get_shuffle_{name}") for name in _SHUFFLES},
    "streaming.base.spanner": _of("mixstream.compat.spanner", "Spanner"),
    "streaming.base.storage": {
        **_of("mixstream.compat.download", _DOWNLOADERS),
        **_of("mixstream.compat.upload", _UPLOADERS),
    },
    "streaming.base.storage.download": _of("mixstream.compat.download", f"{_DOWNLOADERS} DOWNLOADER_MAPPINGS"),
    "streaming.base.storage.upload": _of("mixstream.compat.upload", f"{_UPLOADERS} UPLOADERS"),
    "streaming.base.stream": {**_only("Stream"), "streams_registry": "mixstream.compat.streams:streams_registry"},
    "streaming.base.util": {**_of("mixstream.compat.util", _UTIL), "merge_index": "mixstream:merge_index"},
    "streaming.base.world": _of("mixstream.compat.world", "World"),
    "streaming.text": _of(_TEXT, "StreamingC4 StreamingEnWiki StreamingPile"),
    "streaming.text.c4": _of(_TEXT, "StreamingC4"),
    "streaming.text.enwiki": _of(_TEXT, "StreamingEnWiki"),
    "streaming.text.pile": _of(_TEXT, "StreamingPile"),
    "streaming.vision": _of(_VISION, "StreamingADE20K StreamingCIFAR10 StreamingCOCO StreamingImageNet"),
    "streaming.vision.ade20k": _of(_VISION, "StreamingADE20K"),
    "streaming.vision.base": _of(_VISION, "StandardTransform StreamingVisionDataset"),
    "streaming.vision.cifar10": _of(_VISION, "StreamingCIFAR10"),
    "streaming.vision.coco": _of(_VISION, "StreamingCOCO"),
    "streaming.vision.imagenet": _of(_VISION, "StreamingImageNet"),
}

ABSENT: dict[str, str] = {
    "streaming.base.shared": "mixstream has no shared memory; files and file locks in the cache directory do its work",
    "streaming.base.converters": "they need Spark; `mixstream convert` makes datasets of text, JSON lines and the like",
    "streaming.multimodal": "WebVid is not distributed any more",
}
