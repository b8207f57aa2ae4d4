"""The Open Inference Protocol by gRPC, for which the extra `grpc` must be installed.

Nothing outside this package imports grpc or protobuf, and nothing in it is imported unless `[grpc]` is set.
"""
