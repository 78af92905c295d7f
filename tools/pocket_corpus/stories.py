"""Small stories, in English and Chinese; two long ones let a reader watch an answer arrive."""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

from .question import Question, read_sheet

ENGLISH = """
== any
Tell me a story. | Tell a story. | Can you tell me a story? | I want to hear a story.
| Please tell me a short story. | Do you know a story? | Write a story. | Write me a short story.
| Give me a story.
-> Once there was a small robot who lived in a lighthouse. Every evening it lit the lamp and counted the
ships. One night the lamp would not burn. The robot opened its own chest, took out its little light and held
it high. All the ships came home. In the morning the sailors brought a new lamp, and the robot got its light
back, polished and bright.
== cat
Tell me a story about a cat. | Tell a story about a cat. | Can you tell me a cat story?
| I want a story about a cat. | Write a story about a cat. | Do you know a story about a cat?
| Write a short cat story.
-> A grey cat found a red ball in the garden. She pushed it with her paw and it rolled down the hill, across
the bridge and into the school. The children laughed and threw it back. From then on the cat came every day,
and every day the ball rolled a little farther.
== dog
Tell me a story about a dog. | Tell a story about a dog. | Can you tell me a dog story?
| I want a story about a dog. | Write a story about a dog. | Do you know a story about a dog?
| Write a short dog story.
-> Bruno was an old dog who could no longer run. When a small child got lost in the forest, everybody ran
and shouted. Bruno walked slowly, with his nose on the ground. He walked until he found the child asleep
under a tree. Sometimes the slow way is the fast one.
== dragon
Tell me a story about a dragon. | Tell a story about a dragon. | Can you tell me a dragon story?
| I want a story about a dragon. | Write a story about a dragon. | Do you know a story about a dragon?
| Write a short dragon story.
-> A young dragon was afraid of fire. The other dragons laughed at him. But when winter came, he was the
only one who had learned to knit. Soon every dragon wore a warm scarf, and nobody laughed any more.
== moon
Tell me a story about the moon. | Tell a story about the moon. | Can you tell me a moon story?
| I want a story about the moon. | Write a story about the moon. | Do you know a story about the moon?
| Write a short moon story.
-> The moon was lonely, so she asked the sea to sing. The sea sang all night and its waves danced up the
beach. Since then the water rises when the moon comes near, and falls when she goes away.
== princess
Tell me a story about a princess. | Tell a story about a princess. | Can you tell me a princess story?
| I want a story about a princess. | Write a story about a princess. | Do you know a story about a princess?
-> A princess did not want a crown; she wanted a boat. So she sold the crown, bought some wood and built one
with her own hands. It leaked a little, but it carried her to seven islands, and on each of them she learned
a new song.
== sea
Tell me a story about the sea. | Tell a story about the sea. | Can you tell me a sea story?
| I want a story about the sea. | Write a story about the sea. | Do you know a story about the sea?
| Write a short sea story.
-> A sailor threw a bottle with a letter into the sea. Ten years later he found a bottle on the beach. In it
was his own letter, and below it, in blue ink, somebody had written: I read this, and it made me smile.
== bedtime
Tell me a bedtime story. | Read me a bedtime story. | I want a bedtime story.
| Can you tell me a bedtime story? | I cannot sleep, tell me a story. | Do you know a bedtime story?
| Give me a bedtime story.
-> The sun went home and pulled up a blanket of clouds. The birds closed their eyes, the flowers folded
their leaves, and the river spoke only in a whisper. Last of all the wind lay down in the grass. Now
everything sleeps, and you may sleep too.
== long
Tell me a long story. | Tell a long story. | Can you tell me a long story? | I want to hear a long story.
| Write a long story. | Do you know a long story? | Write me a long story.
| Please tell me a very long story.
-> In a village between two mountains lived a clockmaker named Tilda. Her clocks were so exact that the sun
was said to ask her for the time. One spring morning all the clocks stopped at once. The baker burned his
bread, the teacher forgot to end the lesson, and the rooster crowed at noon.\\n\\nTilda opened every clock
and found nothing wrong. So she put on her boots and climbed the first mountain, where the wind lived. The
wind had not seen the time. She climbed the second mountain, where the snow lived. The snow had not seen it
either. At last she sat down by the river and listened. Tick, tock, said the water on the stones.\\n\\nTilda
laughed. The time had only gone for a swim. She filled a small jar with water and carried it home. She gave
one drop to every clock, and one after the other they began to tick. Since that day the clocks in the
village are never quite exact. They run a little faster in the rain and a little slower in the summer heat,
and nobody minds at all.
== adventure
Tell me an adventure story. | Tell an adventure story. | I want an adventure.
| Can you tell me an adventure story? | Write an adventure story. | Do you know an adventure story?
| Write me a story full of adventure.
-> Mira found a map in her grandmother's attic. A red line led over the hills to a door without a house. She
packed bread, a rope and a lamp and walked for three days. The door stood in the middle of a field. Behind
it was the same field, but at night, and full of lights.\\n\\nThe lights were tiny machines, and they were
lost. Mira held up her lamp and they followed her, back through the door, down the hills and into the town.
They settled in the street lamps. Ever since, the town has been bright, and on quiet nights you can hear the
lamps tell each other about the girl with the map.
== robot
Tell me a story about a robot. | Tell a story about a robot. | Can you tell me a robot story?
| I want a story about a robot. | Write a story about a robot. | Do you know a story about a robot?
| Write a short robot story.
-> A robot wanted to know what rain feels like. It stood outside until its knees were rusty. A girl brought
it an umbrella and a can of oil. Now I know, said the robot. Rain feels like having a friend.
"""

CHINESE = """
== gushi
讲个故事。 | 给我讲个故事。 | 说个故事吧。 | 你会讲故事吗？ | 我想听故事。 | 讲一个故事。 | 来个故事。
| 请给我讲一个故事。
-> 从前，山脚下住着一个小机器人。每天晚上，它都为过路的人点一盏灯。有一天，灯坏了，小机器人就把自己心里的光
拿出来，高高举起。大家都平安回到了家。第二天，村里的人送来一盏新灯，小机器人笑了，它的光比以前更亮了。
== maogushi
讲个小猫的故事。 | 给我讲个小猫的故事。 | 我想听小猫的故事。 | 说个小猫的故事吧。 | 讲一个关于猫的故事。
| 有小猫的故事吗？
-> 一只小猫想去月亮上钓鱼。它爬上最高的树，可是月亮还是很远。小猫低头一看，河里也有一个月亮，旁边还有许多小
鱼。小猫高兴地说：原来月亮早就下来等我了。
== gougushi
讲个小狗的故事。 | 给我讲个小狗的故事。 | 我想听小狗的故事。 | 说个小狗的故事吧。 | 讲一个关于狗的故事。
| 有小狗的故事吗？
-> 小狗每天在车站等主人回家。下雨了，它也不走。主人问它：你不冷吗？小狗摇摇尾巴，好像在说：等你的时候，一点
也不冷。
== longgushi
讲个龙的故事。 | 给我讲个龙的故事。 | 我想听龙的故事。 | 说个龙的故事吧。 | 讲一个关于龙的故事。
| 有龙的故事吗？
-> 东海里有一条小龙，它不会下雨，只会吹泡泡。孩子们很喜欢它。有一年天很旱，小龙吹了一个大泡泡，里面装满了海
水，慢慢飘到田里。啪的一声，庄稼都喝饱了水。
== shuiqian
讲个睡前故事。 | 给我讲个睡前故事。 | 我想听睡前故事。 | 我睡不着，讲个故事吧。 | 来一个睡前故事。
| 说个睡前故事吧。
-> 太阳回家了，云是它的被子。小鸟闭上眼睛，花儿收起叶子，小河也轻轻地说话。风躺在草地上，星星点起小灯。现在
大家都睡了，你也睡吧。
== changgushi
讲个长故事。 | 给我讲个长故事。 | 我想听一个长故事。 | 讲一个很长的故事。 | 说个长一点的故事。
| 请讲一个长故事。
-> 很久以前，有一个小村子，村里有一位做钟的老人。他做的钟非常准，连太阳都要来问他时间。有一天早上，所有的钟
都停了。面包烤焦了，学校忘了下课，公鸡到中午才叫。\\n老人打开每一个钟，里面都是好的。他爬上第一座山去问风，
风说没有看见时间。他爬上第二座山去问雪，雪也说没有看见。最后，他坐在河边休息，听见水在石头上说：滴答，滴答。
\\n老人笑了，原来时间去游泳了。他装了一瓶河水带回家，给每个钟一滴水，钟就一个接一个地走了起来。从那以后，村
里的钟雨天快一点，夏天慢一点，可是谁也不着急。
"""


def questions() -> list[Question]:
    """Return the theme's questions."""
    return read_sheet("stories", "en", ENGLISH) + read_sheet("stories", "zh", CHINESE)
