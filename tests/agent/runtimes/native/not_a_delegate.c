/* A shared library that is no delegate: it lacks tflite_plugin_create_delegate. */
int nothing_of_use(void) { return 0; }
