"""What of ZODB's and ZEO's suites is left out, and why.

Where users could notice the behaviour, the reason names a test of our own.
"""

_PYTHON = "looks at the inside of ZEO's server in Python, or configures that program: "
_CLIENT = "starts no server"
_SHARED = ("a bucket shares no directory with clients: "
           "test_shared_blob_directories_are_refused_with_what_to_configure")
_UNDO = ("the server runs no Python, and leaves it to the client to merge; a client "
         "that cannot raises ConflictError and not UndoError: "
         "test_an_undo_that_nobody_can_merge_is_a_conflict_and_changes_nothing")
_QUEUE = ("wants a client that was away to drop its cache because a queue is short; "
          "here invalidations go back as far as the database: "
          "test_a_client_that_missed_a_thousand_transactions_keeps_its_cache")
_LOG = "wants lines of the log in the format of Python's logging: "

LEFT_OUT = {
    # Shared blob directories
    "ClientStorageSharedBlobsBlobTests.*": _SHARED,
    "testZEO.BlobWritableCacheTests.check*Blob*": _SHARED,
    "testZEO.BlobAdaptedFileStorageTests.checkStoreAndLoadBlob":
        "looks for the blob in the server's directory; the rest of it is "
        "test_a_blob_that_left_the_cache_comes_back_to_many_threads",

    "testZEO.*.checkInterfaceFromRemoteStorage":
        "wants a FileStorage without blobs; "
        "test_the_interfaces_are_those_of_a_file_storage_with_blobs",

    # Conflicts in undo
    "testZEO.*.testNotUndoable": _UNDO,
    "testZEO.*.testUndoUnresolvable": _UNDO,

    # The queue of invalidations
    "testConnection.FileStorageInvqTests.checkVerificationWith2ClientsInvqOverflow": _QUEUE,
    "drop_cache_rather_than_verify_txt": _QUEUE,
    "invalidation-age_txt": _QUEUE,

    # Files and logs of the Python server
    "testZEO.client_has_newer_data_than_server":
        "puts an older Data.fs under the server: "
        "test_a_client_that_knows_more_than_the_server_does_not_connect",
    "testConnection.*.checkTimeout":
        _LOG + "test_a_transaction_that_timed_out_is_in_the_log; what happens then "
        "is in checkTimeoutAfterVote, which runs",
    "testZEO.client_labels": _LOG + "test_a_client_label_is_taken",
    "testZEO.runzeo_*": _PYTHON + "runzeo, its output, and signals that turn its log over",
    "zdoptions_test": _PYTHON + "the options of runzeo",
    "protocols_test": _PYTHON + "has it speak ZEO 4, which the client refuses",
    "dynamic_server_ports_test":
        _PYTHON + "events in its process; test_port_zero_is_a_free_port_that_is_announced",
    "test_sync.*":
        _PYTHON + "counts calls of ping; "
        "test_a_client_with_server_sync_has_seen_all_commits_after_sync",
    "testZEO.multiple_storages_invalidation_queue_is_not_insane": _PYTHON + "StorageServer",
    "testZEO.getInvalidationsAfterServerRestart":
        _PYTHON + "StorageServer; "
        "test_a_reopened_cache_learns_of_them_after_the_server_was_restarted",
    "test_client_side_conflict_resolution.*.test_server_side":
        _PYTHON + "StorageServer; test_client_side runs",

    # Tests that could not fail here
    "testssl.SSLConfigTestMockiavellian.*": _CLIENT + ", but mocks",
    "testZEO.Test_convenience_functions.*": _CLIENT + ", but mocks",
    "testZEO.ClientDisconnected_errors_are_TransientErrors": _CLIENT,
    "util.AAAA_Test_Runner_Hack.*": "is empty",
}
