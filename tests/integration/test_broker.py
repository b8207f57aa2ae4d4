"""The broker of the tests is a real one and speaks MQTT 5, as the fleet link and its tests rely on."""

import queue

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def test_a_message_with_a_response_topic_comes_back(mosquitto: tuple[str, int]) -> None:
    subscribed: queue.Queue[list[mqtt.ReasonCode]] = queue.Queue()
    received: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="test", protocol=mqtt.MQTTv5)
    client.on_connect = lambda client, *_: client.subscribe("edge/#", qos=1)
    client.on_subscribe = lambda _client, _data, _mid, codes, _properties: subscribed.put(codes)
    client.on_message = lambda _client, _data, message: received.put(message)
    client.connect(*mosquitto)
    client.loop_start()
    try:
        assert subscribed.get(timeout=5)[0].value == 1
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "edge/reply"
        client.publish("edge/question", b"\x00\xff", qos=1, properties=properties).wait_for_publish(5)
        message = received.get(timeout=5)
        assert (message.topic, message.payload) == ("edge/question", b"\x00\xff")
        assert message.properties is not None
        assert message.properties.ResponseTopic == "edge/reply"
    finally:
        client.disconnect()
        client.loop_stop()
